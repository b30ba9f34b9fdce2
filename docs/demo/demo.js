// A picture through a Puppet-CNN in the reader's browser. All that is fetched lies beside this file.
import { fitted } from "./picture.js";

const SIZE = 32;
const CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const demo = document.getElementById("demo");
const part = (name) => demo.querySelector(`.demo-${name}`);

async function fetched(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`this site was built without ${name}, or it cannot be reached (${response.status})`);
  return response;
}

const bytesOf = async (name) => (await fetched(name)).arrayBuffer();

// Unpacked while it comes: hosts seldom pack it themselves.
async function unpacked(name) {
  const { body } = await fetched(name);
  return new Response(body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function load() {
  const [runtime, model] = await Promise.all([unpacked("ort.bin"), bytesOf("model.onnx")]);
  const ort = await import("./ort.js");
  const began = performance.now();
  ort.env.wasm.numThreads = 1; // more would need headers that few hosts send
  ort.env.wasm.wasmBinary = runtime;
  // The optimiser takes longer than it saves, and brings in more of the runtime to be compiled.
  const session = await ort.InferenceSession.create(model, { graphOptimizationLevel: "disabled" });
  return { ort, session, began, size: model.byteLength };
}

function taken(name) {
  const [entry] = performance.getEntriesByName(new URL(name, import.meta.url).href);
  return (entry?.encodedBodySize ?? 0).toLocaleString("en");
}

// What the net answers to 32×32 pixels, red, green and blue from 0 to 255.
async function answer({ ort, session }, levels) {
  const began = performance.now();
  const images = new ort.Tensor("uint8", levels, [1, SIZE, SIZE, 3]);
  const { logits, complexity } = await session.run({ [session.inputNames[0]]: images });
  const milliseconds = performance.now() - began;
  const most = Math.max(...logits.data);
  const powers = Array.from(logits.data, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b);
  const probabilities = powers.map((power) => power / sum);
  const best = CLASSES[probabilities.indexOf(Math.max(...probabilities))];
  return { probabilities, best, complexity: complexity.data[0], milliseconds };
}

function show(levels, { probabilities, best, complexity, milliseconds }) {
  const pixels = new ImageData(SIZE, SIZE);
  pixels.data.fill(255);
  levels.forEach((level, i) => (pixels.data[Math.floor(i / 3) * 4 + (i % 3)] = level));
  demo.querySelector("canvas").getContext("2d").putImageData(pixels, 0, 0);
  const rows = CLASSES.map((name, i) => {
    const row = document.createElement("div");
    row.innerHTML = "<span></span><i></i><output></output>"; // the texts below are no HTML
    row.children[0].textContent = name;
    row.children[1].style.width = `${100 * probabilities[i]}%`;
    row.children[2].textContent = `${(100 * probabilities[i]).toFixed(1)} %`;
    return row;
  });
  part("bars").replaceChildren(...rows);
  part("answer").hidden = false;
  part("told").textContent = `${best}. Complexity ${complexity} bits, ${milliseconds.toFixed(1)} milliseconds.`;
}

async function open(net, blob) {
  const levels = await fitted(blob, SIZE);
  const found = await answer(net, levels);
  show(levels, found);
  return found;
}

const failed = (error) => (part("told").textContent = `That did not work: ${error.message}`);

// One of the ten: a button, under which stands what the net takes it for.
async function button(net, name) {
  const blob = new Blob([await bytesOf(`${name}.png`)], { type: "image/png" });
  const found = await answer(net, await fitted(blob, SIZE));
  const one = document.createElement("button");
  const image = document.createElement("img");
  image.src = URL.createObjectURL(blob);
  image.alt = name;
  one.append(image, found.best);
  [one.name, one.value] = [name, found.best];
  one.onclick = () => {
    for (const other of part("pictures").children) other.ariaPressed = other === one;
    open(net, blob).catch(failed);
  };
  return one;
}

try {
  const net = await load();
  const buttons = [await button(net, CLASSES[0])];
  part("files").textContent =
    `The model took ${net.size.toLocaleString("en")} bytes; the runtime ${taken("ort.bin")}, once for all models. ` +
    `First answer ${Math.round(performance.now() - net.began)} milliseconds after they were there.`;
  for (const name of CLASSES.slice(1)) buttons.push(await button(net, name));
  part("pictures").replaceChildren(...buttons);
  const chosen = (files) => {
    for (const one of buttons) one.ariaPressed = false;
    if (files.length) open(net, files[0]).catch(failed);
  };
  const input = demo.querySelector("input");
  input.onchange = () => chosen(input.files);
  demo.ondragover = (event) => (event.preventDefault(), demo.classList.add("demo-over"));
  demo.ondragleave = () => demo.classList.remove("demo-over");
  demo.ondrop = (event) => {
    event.preventDefault();
    demo.classList.remove("demo-over");
    chosen(event.dataTransfer.files);
  };
  const asked = new URLSearchParams(location.search).get("picture"); // one of this site's; the answer goes to the log
  const answers = buttons.map((one) => [one.name, one.value]);
  if (asked) console.info(JSON.stringify({ answers, ...(await open(net, new Blob([await bytesOf(asked)]))) }));
  else buttons[0].click();
} catch (error) {
  failed(error);
}
