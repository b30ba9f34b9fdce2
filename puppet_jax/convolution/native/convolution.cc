// The three bilinear maps of a convolution with kernels chosen from a bank, on a CPU, as XLA FFI handlers (see
// ../bank_convolution.py for the maths). Operands are images (B, H, W, C_in), an index (B), banks
// (S, K_h, K_w, C_in, C_out), outputs (B, H', W', C_out), float32; image i has the bank's kernel index[i], or none where
// index[i] is -1: then its results are zeros and it costs nothing. 3×3 kernels at stride 1 go through Winograd's filtering
// (winograd.inc), everything else is direct convolution (kernels.inc); no patches are ever formed. What several threads
// read (a kernel in the order of the inner loops, padded images) is laid out once, before they do. Work is spread over
// XLA's own thread pool; what an image's numbers are depends neither on how nor on the rest of its batch.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

struct Pair {
  int64_t h, w;
};

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEVERAL_INSTRUCTION_SETS 1
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
namespace avx512 {
#define LANES 16
#define WIDE 12
#include "kernels.inc"
#include "winograd.inc"
#undef LANES
#undef WIDE
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define LANES 8
#define WIDE 6
#include "kernels.inc"
#include "winograd.inc"
#undef LANES
#undef WIDE
}  // namespace avx2
#pragma GCC pop_options
#endif

namespace baseline {
#define LANES 4
#define WIDE 6
#include "kernels.inc"
#include "winograd.inc"
#undef LANES
#undef WIDE
}  // namespace baseline

struct Set {
  int64_t lanes, wide;
  decltype(&baseline::Forward) forward;
  decltype(&baseline::KernelGradient) kernel_gradient;
  decltype(&baseline::TransformKernel) transform_kernel;
  decltype(&baseline::KernelFromTransform) kernel_from_transform;
  decltype(&baseline::WinogradRoom) winograd_room;
  decltype(&baseline::WinogradForward) winograd_forward;
  decltype(&baseline::TilesAtOnce) tiles_at_once;
  decltype(&baseline::kWinogradGradients[0]) winograd_gradients;
  decltype(&baseline::Depthwise) depthwise;
  decltype(&baseline::Finish) finish;
  decltype(&baseline::FinishGradient) finish_gradient;
};

constexpr int64_t kCached = 1 << 17;  // floats that a second-level cache of 512 KiB to 1 MiB holds
constexpr int64_t kLaidOut = 1 << 24;  // floats of kernels that are laid out at a time, one kernel at least

#define SET(n)                                                                                                      \
  Set {                                                                                                             \
    n::kLanes, n::kWide, &n::Forward, &n::KernelGradient, &n::TransformKernel, &n::KernelFromTransform,             \
        &n::WinogradRoom, &n::WinogradForward, &n::TilesAtOnce, n::kWinogradGradients, &n::Depthwise,             \
        &n::Finish, &n::FinishGradient                                                                              \
  }

// `most` lets tests run the other sets too: the largest number of lanes to use.
Set Choose(int64_t most) {
#ifdef SEVERAL_INSTRUCTION_SETS
  __builtin_cpu_init();
  if (most >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
    return SET(avx512);
  if (most >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return SET(avx2);
#endif
  return SET(baseline);
}
#undef SET

// Runs task(i) for i < count on the pool's threads and this one, and returns when all are done. This thread takes tasks
// too, and waits only for tasks that a running thread has taken, so a pool whose every thread waits here still ends.
void Parallel(ffi::ThreadPool& pool, int64_t count, const std::function<void(int64_t)>& task) {
  struct State {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  if (helpers < 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  auto state = std::make_shared<State>();
  // A helper that starts late finds no task left and never touches `task`, which may be gone.
  auto work = [state, count, &task] {
    int64_t mine = 0;
    for (int64_t i; (i = state->next.fetch_add(1)) < count; ++mine) task(i);
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(state->mutex);
    if ((state->done += mine) == count) state->all_done.notify_all();
  };
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(work));
  work();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done == count; });
}

// Memory that a thread keeps from call to call: fresh pages would cost more than what is written to them.
float* Scratch(int which, int64_t size) {
  thread_local std::vector<float> buffers[4];
  if (static_cast<int64_t>(buffers[which].size()) < size) buffers[which].resize(size);
  return buffers[which].data();
}

// Rows [first, last) of an image surrounded by zeros, its pixels `step` apart; `before` is what comes before pixel 0.
void Pad(float* padded, const float* image, Pair size, int64_t channels, Pair before, Pair step, int64_t first,
         int64_t last, int64_t width) {
  std::memset(padded, 0, (last - first) * width * channels * sizeof(float));
  for (int64_t y = 0; y < size.h; ++y) {
    const int64_t row = before.h + y * step.h;
    if (row < first || row >= last) continue;
    float* to = padded + (row - first) * width * channels;
    const float* from = image + y * size.w * channels;
    if (step.w == 1) {
      const int64_t start = std::max<int64_t>(before.w, 0), skipped = start - before.w;
      const int64_t count = std::min(size.w - skipped, width - start);
      if (count > 0) std::memcpy(to + start * channels, from + skipped * channels, count * channels * sizeof(float));
      continue;
    }
    for (int64_t x = 0; x < size.w; ++x) {
      const int64_t column = before.w + x * step.w;
      if (column >= 0 && column < width)
        std::memcpy(to + column * channels, from + x * channels, channels * sizeof(float));
    }
  }
}

// Where block o of a matrix of `rows` rows lies once Pack has laid it out, in blocks of `width` columns: o * rows * width.
int64_t PackedSize(int64_t rows, int64_t columns, int64_t lanes) { return rows * Ceil(columns, lanes) * lanes; }

// Some rows of a matrix (`columns` apart) in blocks of 2 * lanes columns, the last of lanes if that is enough, filled up
// with zeros: what the inner loops read is then contiguous. `rows` is what the whole matrix has, `at` the first of these.
void Pack(const float* from, int64_t count, int64_t columns, int64_t lanes, int64_t rows, int64_t at, float* to) {
  for (int64_t o = 0; o < columns; o += 2 * lanes) {
    const int64_t used = std::min(columns - o, 2 * lanes), width = Ceil(used, lanes) * lanes;
    float* block = to + o * rows + at * width;
    for (int64_t r = 0; r < count; ++r, block += width) {
      std::memcpy(block, from + r * columns + o, used * sizeof(float));
      if (used < width) std::memset(block + used, 0, (width - used) * sizeof(float));
    }
  }
}

// to[o][i] = from[i][o], four by four through registers.
void Transpose(const float* from, int64_t c_in, int64_t c_out, float* to) {
  using baseline::Vector;
  auto at = [](const float* p) { return *reinterpret_cast<const Vector*>(p); };
  int64_t i = 0;
  for (; i + 4 <= c_in; i += 4) {
    int64_t o = 0;
    for (; o + 4 <= c_out; o += 4) {
      const float* p = from + i * c_out + o;
      const Vector a = at(p), b = at(p + c_out), c = at(p + 2 * c_out), d = at(p + 3 * c_out);
      const Vector e = __builtin_shufflevector(a, b, 0, 4, 1, 5), f = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Vector g = __builtin_shufflevector(a, b, 2, 6, 3, 7), h = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      float* q = to + o * c_in + i;
      *reinterpret_cast<Vector*>(q) = __builtin_shufflevector(e, f, 0, 1, 4, 5);
      *reinterpret_cast<Vector*>(q + c_in) = __builtin_shufflevector(e, f, 2, 3, 6, 7);
      *reinterpret_cast<Vector*>(q + 2 * c_in) = __builtin_shufflevector(g, h, 0, 1, 4, 5);
      *reinterpret_cast<Vector*>(q + 3 * c_in) = __builtin_shufflevector(g, h, 2, 3, 6, 7);
    }
    for (; o < c_out; ++o)
      for (int64_t j = i; j < i + 4; ++j) to[o * c_in + j] = from[j * c_out + o];
  }
  for (; i < c_in; ++i)
    for (int64_t o = 0; o < c_out; ++o) to[o * c_in + i] = from[i * c_out + o];
}

// Whether Winograd's filtering is worth its transforms. It depends on shapes alone, so that what an image's numbers are
// does not depend on its batch.
bool TakesWinograd(Pair taps, Pair stride, int64_t c_in, int64_t c_out, Pair map) {
  const int64_t tiles = Ceil(map.h, 2) * Ceil(map.w, 2);
  return taps.h == 3 && taps.w == 3 && stride.h == 1 && stride.w == 1 && std::min(c_in, c_out) >= 16 && tiles >= 4 &&
         20 * tiles <= 9 * map.h * map.w;
}

using Array = ffi::Buffer<ffi::F32, 4>;
using Bank = ffi::Buffer<ffi::F32, 5>;
using Index = ffi::Buffer<ffi::S32, 1>;

// The images that have a kernel, ordered by it, and where each kernel's begin.
struct Chosen {
  std::vector<int64_t> images, begins;
};

// Fails if an index is no place in the bank: the one thing that would read memory that is not ours.
ffi::ErrorOr<Chosen> Choose(const Index& index, int64_t sets) {
  const int64_t count = index.element_count();
  Chosen chosen;
  chosen.begins.assign(sets + 1, 0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t set = index.typed_data()[i];
    if (set < -1 || set >= sets)
      return ffi::Unexpected(ffi::Error::InvalidArgument("index " + std::to_string(set) + " of image " +
                                                         std::to_string(i) + " is no kernel of a bank of " +
                                                         std::to_string(sets)));
    if (set >= 0) ++chosen.begins[set + 1];
  }
  for (int64_t set = 0; set < sets; ++set) chosen.begins[set + 1] += chosen.begins[set];
  chosen.images.resize(chosen.begins[sets]);
  std::vector<int64_t> next(chosen.begins);
  for (int64_t i = 0; i < count; ++i)
    if (const int64_t set = index.typed_data()[i]; set >= 0) chosen.images[next[set]++] = i;
  return chosen;
}

// Forward, and the image gradient, which is a forward map of the cotangents (`step` apart) with kernels turned by 180
// degrees, their channels exchanged.
// `finish(image)`, if there is one, is called once all of an image's output is there.
ffi::Error Correlate(ffi::ThreadPool& pool, const Set& set, const Array& images, const Index& index, const Bank& bank,
                     Array& out, bool turned, Pair stride, Pair before, Pair step,
                     const std::function<void(int64_t)>& finish = nullptr) {
  const auto x = images.dimensions(), k = bank.dimensions(), y = out.dimensions();
  const Pair size{x[1], x[2]}, taps{k[1], k[2]}, map{y[1], y[2]};
  const int64_t c_in = x[3], c_out = y[3], sets = k[0], pixels = map.h * map.w;
  const bool winograd = step.h == 1 && step.w == 1 && TakesWinograd(taps, stride, c_in, c_out, map);
  const int64_t rows = (winograd ? 16 : taps.h * taps.w) * c_in;
  auto found = Choose(index, sets);
  if (!found) return found.error();
  const Chosen& chosen = *found;
  const int64_t count = chosen.images.size(), packed_size = PackedSize(rows, c_out, set.lanes);
  for (int64_t i = 0; i < static_cast<int64_t>(x[0]); ++i)
    if (index.typed_data()[i] < 0)
      std::memset(out.typed_data() + i * pixels * c_out, 0, pixels * c_out * sizeof(float));
  if (count * pixels * c_out == 0) return ffi::Error::Success();
  if (rows == 0) {
    std::memset(out.typed_data(), 0, out.size_bytes());
    return ffi::Error::Success();
  }
  // A kernel that serves a single image, in an order that can be read, is read where it lies.
  const auto packs = [&](int64_t s) {
    const int64_t uses = chosen.begins[s + 1] - chosen.begins[s];
    return uses > 1 || (uses > 0 && (winograd || turned || c_out % set.lanes));
  };
  std::vector<int64_t> places(sets, -1), packed;
  float* kernels = nullptr;
  const int64_t tap_count = taps.h * taps.w, matrix = c_in * c_out;
  // `count` rows of a kernel, from row `at` on, in the order of the inner loops.
  const auto pack = [&](const float* from, int64_t count, int64_t at, int64_t place) {
    if (turned) {
      float* transposed = Scratch(1, matrix);
      Transpose(from, c_out, c_in, transposed);
      from = transposed;
    }
    Pack(from, count, c_out, set.lanes, rows, at, kernels + place * packed_size);
  };
  // Rows of the map, or of its tiles, which an image's pieces divide.
  const Pair by = winograd ? Pair{Ceil(map.h, 2), Ceil(map.w, 2)} : map;
  const Pair apart = winograd ? Pair{2, 2} : stride, reach = winograd ? Pair{4, 4} : taps;
  const int64_t pieces = std::clamp<int64_t>(Ceil(4 * pool.num_threads(), count), 1, by.h);
  const int64_t width = (by.w - 1) * apart.w + reach.w;
  const auto run = [&](int64_t task) {
    const int64_t image = chosen.images[task / pieces], piece = task % pieces, s = index.typed_data()[image];
    const int64_t first = piece * by.h / pieces, last = (piece + 1) * by.h / pieces;
    float* padded = Scratch(0, ((last - 1 - first) * apart.h + reach.h) * width * c_in);
    Pad(padded, images.typed_data() + image * size.h * size.w * c_in, size, c_in, before, step, first * apart.h,
        (last - 1) * apart.h + reach.h, width);
    const bool own = places[s] < 0;
    const float* kernel = own ? bank.typed_data() + s * rows * c_out : kernels + places[s] * packed_size;
    float* to = out.typed_data() + image * pixels * c_out;
    if (winograd)
      set.winograd_forward(padded, width, c_in, kernel, c_out, first, last, map, to, Scratch(1, set.winograd_room(c_in)));
    else
      set.forward(padded, width, c_in, kernel, own, taps, c_out, stride, first, last, map.w, to);
    if (finish && pieces == 1) finish(image);
  };
  for (int64_t begin = 0, end; begin < sets; begin = end) {
    end = std::min(begin + std::max<int64_t>(kLaidOut / packed_size, 1), sets);
    packed.clear();
    for (int64_t s = begin; s < end; ++s)
      if (packs(s)) places[s] = packed.size(), packed.push_back(s);
    kernels = Scratch(2, packed.size() * packed_size);
    if (winograd) {
      // Rows that are transformed together stay in the cache, but what is to be transposed is transformed as a whole.
      const int64_t most = turned ? c_in : std::max<int64_t>(1024 / c_out, 1);
      Parallel(pool, packed.size() * 4, [&](int64_t task) {
        const float* kernel = bank.typed_data() + packed[task / 4] * 9 * matrix;
        float* transformed = Scratch(3, 4 * most * c_out);
        for (int64_t i = 0; i < c_in; i += most) {
          const int64_t count = std::min(most, c_in - i), n = count * c_out;
          set.transform_kernel(kernel + i * c_out, matrix, n, task % 4, turned, transformed);
          for (int64_t p = 0; p < 4; ++p) pack(transformed + p * n, count, (task % 4 * 4 + p) * c_in + i, task / 4);
        }
      });
    } else {
      Parallel(pool, packed.size() * tap_count, [&](int64_t task) {
        const int64_t tap = task % tap_count, place = task / tap_count;
        const int64_t from = packed[place] * tap_count + (turned ? tap_count - 1 - tap : tap);
        pack(bank.typed_data() + from * matrix, c_in, tap * c_in, place);
      });
    }
    const int64_t from = chosen.begins[begin];
    Parallel(pool, (chosen.begins[end] - from) * pieces, [&](int64_t task) { run(from * pieces + task); });
  }
  if (finish && pieces > 1) Parallel(pool, count, [&](int64_t i) { finish(chosen.images[i]); });
  return ffi::Error::Success();
}

ffi::Error ForwardHandler(ffi::ThreadPool pool, Array images, Index index, Bank bank, ffi::Result<Array> out,
                          int64_t stride_h, int64_t stride_w, int64_t top, int64_t left, int64_t lanes) {
  return Correlate(pool, Choose(lanes), images, index, bank, *out, false, {stride_h, stride_w}, {top, left}, {1, 1});
}

// Depthwise, forward and the image gradient, as above; banks are (S, K_h, K_w, C).
ffi::Error CorrelateDepthwise(ffi::ThreadPool& pool, const Set& set, const Array& images, const Index& index,
                              const Array& bank, Array& out, bool turned, Pair stride, Pair before, Pair step) {
  const auto x = images.dimensions(), k = bank.dimensions(), y = out.dimensions();
  const Pair size{x[1], x[2]}, taps{k[1], k[2]}, map{y[1], y[2]};
  const int64_t c = y[3], pixels = map.h * map.w, total = taps.h * taps.w;
  auto found = Choose(index, k[0]);
  if (!found) return found.error();
  const int64_t height = (map.h - 1) * stride.h + taps.h, width = (map.w - 1) * stride.w + taps.w;
  Parallel(pool, x[0], [&](int64_t image) {
    float* to = out.typed_data() + image * pixels * c;
    const int64_t s = index.typed_data()[image];
    if (s < 0 || total == 0) {
      std::memset(to, 0, pixels * c * sizeof(float));
      return;
    }
    float* padded = Scratch(0, height * width * c + set.lanes);
    Pad(padded, images.typed_data() + image * size.h * size.w * c, size, c, before, step, 0, height, width);
    const float* own = bank.typed_data() + s * total * c;
    if (turned) {
      float* backwards = Scratch(1, total * c);
      for (int64_t t = 0; t < total; ++t) std::memcpy(backwards + t * c, own + (total - 1 - t) * c, c * sizeof(float));
      own = backwards;
    }
    set.depthwise(padded, width, c, own, taps, stride, map, nullptr, to);
  });
  return ffi::Error::Success();
}

ffi::Error DepthwiseForwardHandler(ffi::ThreadPool pool, Array images, Index index, Array bank, ffi::Result<Array> out,
                                   int64_t stride_h, int64_t stride_w, int64_t top, int64_t left, int64_t lanes) {
  return CorrelateDepthwise(pool, Choose(lanes), images, index, bank, *out, false, {stride_h, stride_w}, {top, left},
                            {1, 1});
}

ffi::Error DepthwiseImageGradientHandler(ffi::ThreadPool pool, Array cotangents, Index index, Array bank,
                                         ffi::Result<Array> out, int64_t stride_h, int64_t stride_w, int64_t top,
                                         int64_t left, int64_t lanes) {
  const auto k = bank.dimensions();
  return CorrelateDepthwise(pool, Choose(lanes), cotangents, index, bank, *out, true, {1, 1},
                            {k[1] - 1 - top, k[2] - 1 - left}, {stride_h, stride_w});
}

// Each image's own gradient, then their sum over the images of a kernel, in the order of the batch.
ffi::Error DepthwiseKernelGradientHandler(ffi::ThreadPool pool, Array images, Array cotangents, Index index,
                                          ffi::Result<Array> out, int64_t stride_h, int64_t stride_w, int64_t top,
                                          int64_t left, int64_t lanes) {
  const Set set = Choose(lanes);
  const auto x = images.dimensions(), g = cotangents.dimensions(), k = out->dimensions();
  const Pair size{x[1], x[2]}, taps{k[1], k[2]}, map{g[1], g[2]}, stride{stride_h, stride_w};
  const int64_t c = k[3], numbers = taps.h * taps.w * c;
  auto found = Choose(index, k[0]);
  if (!found) return found.error();
  const Chosen& chosen = *found;
  const int64_t height = (map.h - 1) * stride.h + taps.h, width = (map.w - 1) * stride.w + taps.w;
  float* of_images = Scratch(2, chosen.images.size() * numbers);
  Parallel(pool, chosen.images.size(), [&](int64_t i) {
    const int64_t image = chosen.images[i];
    float* padded = Scratch(0, height * width * c + set.lanes);
    Pad(padded, images.typed_data() + image * size.h * size.w * c, size, c, {top, left}, {1, 1}, 0, height, width);
    set.depthwise(padded, width, c, nullptr, taps, stride, map, cotangents.typed_data() + image * map.h * map.w * c,
                  of_images + i * numbers);
  });
  for (int64_t s = 0; s < static_cast<int64_t>(k[0]); ++s) {
    float* to = out->typed_data() + s * numbers;
    std::memset(to, 0, numbers * sizeof(float));
    for (int64_t i = chosen.begins[s]; i < chosen.begins[s + 1]; ++i)
      for (int64_t n = 0; n < numbers; ++n) to[n] += of_images[i * numbers + n];
  }
  return ffi::Error::Success();
}

using Vector1 = ffi::Buffer<ffi::F32, 1>;
using Vectors = ffi::Buffer<ffi::F32, 2>;

// A layer: forward, normalisation over groups of channels, ReLU, the layer's input added (each of the last two if asked
// for); and the mean over the map.
ffi::Error LayerHandler(ffi::ThreadPool pool, Array images, Index index, Bank bank, Vector1 scale, Vector1 shift,
                        ffi::Result<Array> out, ffi::Result<Vectors> means, int64_t stride_h,
                        int64_t stride_w, int64_t top, int64_t left, int64_t lanes, int64_t groups, int64_t relu,
                        float epsilon, int64_t residual) {
  const Set set = Choose(lanes);
  const auto y = out->dimensions();
  const int64_t pixels = y[1] * y[2], c = y[3], size = pixels * c;
  std::memset(means->typed_data(), 0, means->size_bytes());
  return Correlate(pool, set, images, index, bank, *out, false, {stride_h, stride_w}, {top, left}, {1, 1},
                   [&](int64_t image) {
                     float* map = out->typed_data() + image * size;
                     set.finish(map, pixels, c, groups, scale.typed_data(), shift.typed_data(), epsilon, relu,
                                residual ? images.typed_data() + image * size : nullptr, map,
                                means->typed_data() + image * c, Scratch(1, 3 * c));
                   });
}

// What a layer does after its convolution, and its gradient; an image without a kernel gets zeros.
ffi::Error FinishHandler(ffi::ThreadPool pool, Array maps, Index index, Array images, Vector1 scale, Vector1 shift,
                         ffi::Result<Array> out, ffi::Result<Vectors> means, int64_t lanes, int64_t groups, int64_t relu,
                         float epsilon, int64_t residual) {
  const Set set = Choose(lanes);
  const auto y = maps.dimensions();
  const int64_t pixels = y[1] * y[2], c = y[3], size = pixels * c;
  Parallel(pool, y[0], [&](int64_t image) {
    float *to = out->typed_data() + image * size, *mean = means->typed_data() + image * c;
    if (index.typed_data()[image] < 0) {
      std::memset(to, 0, size * sizeof(float));
      std::memset(mean, 0, c * sizeof(float));
      return;
    }
    set.finish(maps.typed_data() + image * size, pixels, c, groups, scale.typed_data(), shift.typed_data(), epsilon, relu,
               residual ? images.typed_data() + image * size : nullptr, to, mean, Scratch(1, 3 * c));
  });
  return ffi::Error::Success();
}

ffi::Error FinishGradientHandler(ffi::ThreadPool pool, Array cotangents, Array maps, Index index, Vector1 scale,
                                 Vector1 shift, ffi::Result<Array> out, ffi::Result<Vectors> of_scale,
                                 ffi::Result<Vectors> of_shift, int64_t lanes, int64_t groups, int64_t relu,
                                 float epsilon) {
  const Set set = Choose(lanes);
  const auto y = maps.dimensions();
  const int64_t pixels = y[1] * y[2], c = y[3], size = pixels * c;
  Parallel(pool, y[0], [&](int64_t image) {
    float *to = out->typed_data() + image * size, *sums = of_scale->typed_data() + image * c;
    float* other_sums = of_shift->typed_data() + image * c;
    if (index.typed_data()[image] < 0) {
      std::memset(to, 0, size * sizeof(float));
      std::memset(sums, 0, c * sizeof(float));
      std::memset(other_sums, 0, c * sizeof(float));
      return;
    }
    set.finish_gradient(maps.typed_data() + image * size, cotangents.typed_data() + image * size, pixels, c, groups,
                        scale.typed_data(), shift.typed_data(), epsilon, relu, to, sums, other_sums, Scratch(1, 7 * c));
  });
  return ffi::Error::Success();
}

ffi::Error ImageGradientHandler(ffi::ThreadPool pool, Array cotangents, Index index, Bank bank, ffi::Result<Array> out,
                                int64_t stride_h, int64_t stride_w, int64_t top, int64_t left, int64_t lanes) {
  const auto k = bank.dimensions();
  return Correlate(pool, Choose(lanes), cotangents, index, bank, *out, true, {1, 1}, {k[1] - 1 - top, k[2] - 1 - left},
                   {stride_h, stride_w});
}

// The kernels' gradients, transformed, in tasks of a kernel, a row of its positions and some input channels; and from
// them the gradients.
void WinogradKernelGradient(ffi::ThreadPool& pool, const Set& set, const Array& images, const Array& cotangents,
                            const Chosen& chosen, Pair before, int64_t c_in, int64_t c_out, float* out) {
  const auto x = images.dimensions(), g = cotangents.dimensions();
  const Pair map{g[1], g[2]}, tiles{Ceil(map.h, 2), Ceil(map.w, 2)};
  const int64_t sets = chosen.begins.size() - 1, count = chosen.images.size(), matrix = c_in * c_out;
  const int64_t height = 2 * tiles.h + 2, width = 2 * tiles.w + 2, size = height * width * c_in;
  const bool even = map.h % 2 == 0 && map.w % 2 == 0;
  const int64_t cotangent_size = even ? 0 : 4 * tiles.h * tiles.w * c_out;
  float* laid_out = Scratch(2, count * (size + cotangent_size));
  std::vector<const float*> padded(count), seen(count);
  Parallel(pool, count, [&](int64_t i) {
    float* to = laid_out + i * (size + cotangent_size);
    Pad(to, images.typed_data() + chosen.images[i] * x[1] * x[2] * c_in, {x[1], x[2]}, c_in, before, {1, 1}, 0, height,
        width);
    padded[i] = to;
    seen[i] = cotangents.typed_data() + chosen.images[i] * map.h * map.w * c_out;
    if (even) return;
    Pad(to + size, seen[i], map, c_out, {0, 0}, {1, 1}, 0, 2 * tiles.h, 2 * tiles.w);
    seen[i] = to + size;
  });
  struct Task {
    int64_t uses, set, row, first, last;
  };
  const int64_t blocks = Ceil(c_in, set.wide), wanted = pool.num_threads();
  for (int64_t begin = 0, end; begin < sets; begin = end) {
    end = std::min(begin + std::max<int64_t>(kLaidOut / (16 * matrix), 1), sets);
    float* transformed = Scratch(3, (end - begin) * 16 * matrix);
    std::vector<Task> tasks;
    for (int64_t s = begin; s < end; ++s) {
      const int64_t uses = chosen.begins[s + 1] - chosen.begins[s];
      if (uses == 0) std::memset(out + s * 9 * matrix, 0, 9 * matrix * sizeof(float));
      const int64_t pieces = uses ? std::min(Ceil(wanted * uses, 2 * count), blocks) : 0;
      for (int64_t p = 0; p < pieces; ++p)
        for (int64_t row = 0; row < 4; ++row)
          tasks.push_back({uses, s, row, p * blocks / pieces * set.wide,
                           std::min((p + 1) * blocks / pieces * set.wide, c_in)});
    }
    // The longest first, so that no thread begins one when the others have ended.
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.uses > b.uses; });
    Parallel(pool, tasks.size(), [&](int64_t t) {
      const auto [uses, s, row, first, last] = tasks[t];
      const int64_t at_once = set.tiles_at_once(last - first, c_out, kCached);
      float* work = Scratch(0, kCached + 4 * (last - first + c_out + 2 * set.lanes));
      set.winograd_gradients[row](uses, padded.data() + chosen.begins[s], width, c_in, seen.data() + chosen.begins[s],
                                  tiles, c_out, first, last, at_once, transformed + ((s - begin) * 16 + row * 4) * matrix,
                                  work);
    });
    const int64_t pieces = 4;
    Parallel(pool, (end - begin) * pieces, [&](int64_t task) {
      const int64_t s = begin + task / pieces, piece = task % pieces, first = piece * matrix / pieces;
      const int64_t n = (piece + 1) * matrix / pieces - first;
      if (chosen.begins[s + 1] > chosen.begins[s])
        set.kernel_from_transform(transformed + (s - begin) * 16 * matrix + first, matrix, n, out + s * 9 * matrix + first);
    });
  }
}

ffi::Error KernelGradientHandler(ffi::ThreadPool pool, Array images, Array cotangents, Index index,
                                 ffi::Result<Bank> out, int64_t stride_h, int64_t stride_w, int64_t top, int64_t left,
                                 int64_t lanes) {
  const Set set = Choose(lanes);
  const auto x = images.dimensions(), g = cotangents.dimensions(), k = out->dimensions();
  const int64_t sets = k[0], rows = k[1] * k[2] * k[3], c_in = k[3], c_out = k[4], pixels = g[1] * g[2];
  const Pair map{g[1], g[2]}, stride{stride_h, stride_w};
  auto found = Choose(index, sets);
  if (!found) return found.error();
  const Chosen& chosen = *found;
  if (TakesWinograd({k[1], k[2]}, stride, c_in, c_out, map)) {
    WinogradKernelGradient(pool, set, images, cotangents, chosen, {top, left}, c_in, c_out, out->typed_data());
    return ffi::Error::Success();
  }
  const int64_t count = chosen.images.size();
  const int64_t height = (map.h - 1) * stride.h + k[1], width = (map.w - 1) * stride.w + k[2];
  const int64_t size = height * width * c_in, packed_size = PackedSize(pixels, c_out, set.lanes);
  // Images and cotangents as the inner loops read them, those of a kernel side by side.
  float* laid_out = Scratch(2, count * (size + packed_size));
  std::vector<const float*> padded(count), packed(count);
  Parallel(pool, count, [&](int64_t i) {
    float* to = laid_out + i * (size + packed_size);
    Pad(to, images.typed_data() + chosen.images[i] * x[1] * x[2] * c_in, {x[1], x[2]}, c_in, {top, left}, {1, 1}, 0,
        height, width);
    Pack(cotangents.typed_data() + chosen.images[i] * pixels * c_out, pixels, c_out, set.lanes, pixels, 0, to + size);
    padded[i] = to, packed[i] = to + size;
  });
  // Tasks of about equal work: the rows of a kernel in as many pieces as it has images for.
  struct Task {
    int64_t set, first, last;
  };
  std::vector<Task> tasks;
  const int64_t tiles = Ceil(rows, set.wide), wanted = 4 * pool.num_threads();
  for (int64_t s = 0; s < sets; ++s) {
    const int64_t uses = chosen.begins[s + 1] - chosen.begins[s];
    const int64_t pieces = std::clamp<int64_t>(count ? Ceil(wanted * uses, count) : 1, 1, std::max<int64_t>(tiles, 1));
    for (int64_t p = 0; p < pieces; ++p)
      tasks.push_back({s, p * tiles / pieces * set.wide, std::min((p + 1) * tiles / pieces * set.wide, rows)});
  }
  const int64_t at_once = std::max<int64_t>(kCached / (size + packed_size + 1), 1);
  Parallel(pool, tasks.size(), [&](int64_t t) {
    const auto [s, first, last] = tasks[t];
    const int64_t begin = chosen.begins[s], end = chosen.begins[s + 1];
    float* to = out->typed_data() + s * rows * c_out;
    if (begin == end || pixels == 0) std::memset(to + first * c_out, 0, (last - first) * c_out * sizeof(float));
    for (int64_t i = begin; i < end && pixels; i += at_once)
      set.kernel_gradient(std::min(at_once, end - i), padded.data() + i, width, c_in, packed.data() + i, map, k[2], c_out,
                          stride, first, last, to, i > begin);
  });
  return ffi::Error::Success();
}

auto WithGeometry(auto binding) {
  return std::move(binding)
      .template Attr<int64_t>("stride_h")
      .template Attr<int64_t>("stride_w")
      .template Attr<int64_t>("top")
      .template Attr<int64_t>("left")
      .template Attr<int64_t>("lanes");
}

auto WithNormalisation(auto binding) {
  return std::move(binding).template Attr<int64_t>("groups").template Attr<int64_t>("relu").template Attr<float>("epsilon");
}

auto Bind() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_forward, ForwardHandler,
                              WithGeometry(Bind().Arg<Array>().Arg<Index>().Arg<Bank>().Ret<Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_image_gradient, ImageGradientHandler,
                              WithGeometry(Bind().Arg<Array>().Arg<Index>().Arg<Bank>().Ret<Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_kernel_gradient, KernelGradientHandler,
                              WithGeometry(Bind().Arg<Array>().Arg<Array>().Arg<Index>().Ret<Bank>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_depthwise_forward, DepthwiseForwardHandler,
                              WithGeometry(Bind().Arg<Array>().Arg<Index>().Arg<Array>().Ret<Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_depthwise_image_gradient, DepthwiseImageGradientHandler,
                              WithGeometry(Bind().Arg<Array>().Arg<Index>().Arg<Array>().Ret<Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_depthwise_kernel_gradient, DepthwiseKernelGradientHandler,
                              WithGeometry(Bind().Arg<Array>().Arg<Array>().Arg<Index>().Ret<Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    puppet_jax_layer, LayerHandler,
    WithNormalisation(
        WithGeometry(
            Bind().Arg<Array>().Arg<Index>().Arg<Bank>().Arg<Vector1>().Arg<Vector1>().Ret<Array>().Ret<Vectors>()))
        .Attr<int64_t>("residual"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    puppet_jax_finish, FinishHandler,
    WithNormalisation(
        Bind().Arg<Array>().Arg<Index>().Arg<Array>().Arg<Vector1>().Arg<Vector1>().Ret<Array>().Ret<Vectors>().Attr<int64_t>(
            "lanes"))
        .Attr<int64_t>("residual"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_finish_gradient, FinishGradientHandler,
                              WithNormalisation(Bind()
                                                    .Arg<Array>()
                                                    .Arg<Array>()
                                                    .Arg<Index>()
                                                    .Arg<Vector1>()
                                                    .Arg<Vector1>()
                                                    .Ret<Array>()
                                                    .Ret<Vectors>()
                                                    .Ret<Vectors>()
                                                    .Attr<int64_t>("lanes")));
