// The three bilinear maps of a convolution with kernels chosen from a bank, on a CPU, as XLA FFI handlers (see
// ../_primitives.py for the maths). Operands are images (B, H, W, C_in), an index (B), banks
// (S, K_h, K_w, C_in, C_out), outputs (B, H', W', C_out), float32; image i has the bank's kernel index[i], or none
// where index[i] is -1: then its results are zeros and it costs nothing. 3×3 kernels at stride 1 go through Winograd's
// filtering (winograd.inc), everything else is direct convolution (kernels.inc); no patches are ever formed. Images and
// outputs may also be bfloat16: then kernels are rounded to it and multiplied by AMX's tiles where there are some
// (tiles.inc), else images are widened as they are laid out; sums are float32, and an output is rounded once. What
// several threads read (a kernel in the order of the inner loops, padded images) is laid out once, before they do. Work
// is spread over XLA's own thread pool; what an image's numbers are depends neither on how nor on the rest of its batch.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEVERAL_INSTRUCTION_SETS 1
#if __GNUC__ >= 11 && defined(__linux__)
#define TILES 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace ffi = xla::ffi;

namespace {

struct Pair {
  int64_t h, w;
};

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// bfloat16 is the upper half of a float32.
using BFloat16 = ffi::NativeType<ffi::BF16>;

inline float Widen(float x) { return x; }
inline float Widen(BFloat16 x) { return std::bit_cast<float>(uint32_t{x} << 16); }

// To the nearest number of type T, of two as near the even one; a NaN stays one.
template <class T>
inline T RoundTo(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    const uint32_t bits = std::bit_cast<uint32_t>(x), rounded = bits + 0x7fff + (bits >> 16 & 1);
    return (x == x ? rounded : bits | 0x400000) >> 16;
  }
}

// What the factored kernels of a layer share (factors.inc). R and O are filled up with zeros to multiples of the lanes.
struct Factors {
  int64_t t, i, products, outs, r, o;  // products and outs as given, r and o filled up
  float epsilon;
  const float *u, *turned, *mean, *varying, *gram;  // u (r, o), u^T, v's mean over i, v without it, and of that v^T v
};

// How many floats that takes, and what is done for one set.
int64_t SharedFactorsRoom(int64_t i, int64_t r, int64_t o) { return 2 * r * o + r + 2 * i * r + r * r; }
int64_t FactorsRoom(int64_t t, int64_t r, int64_t o) {
  return 4 * t * r + 3 * r * r + 3 * r * o + 2 * r + 6 * o;
}

#ifdef SEVERAL_INSTRUCTION_SETS
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
namespace avx512 {
#define LANES 16
#define WIDE 12
#include "kernels.inc"
#include "winograd.inc"
#include "factors.inc"
#undef LANES
#undef WIDE
#ifdef TILES
#pragma GCC target("amx-tile,amx-bf16")
#include "tiles.inc"
#endif
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define LANES 8
#define WIDE 6
#include "kernels.inc"
#include "winograd.inc"
#include "factors.inc"
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
#include "factors.inc"
#undef LANES
#undef WIDE
}  // namespace baseline

// The inner loops, compiled for one instruction set.
struct InnerLoops {
  const char* instructions;
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
  decltype(&baseline::Finish<float>) finish;
  decltype(&baseline::FinishGradient) finish_gradient;
  decltype(&baseline::Finish<BFloat16>) finish_rounded;
  decltype(&baseline::RoundAll) round;
  decltype(&baseline::PairRows) pair_rows;
  decltype(&baseline::Share) share;
  decltype(&baseline::FactorsOfSet) factors;
  decltype(&baseline::FactorsGradientOfSet) factors_gradient;
  decltype(&baseline::FactorsGradientOfInput) factors_gradient_of_input;
  // Of bfloat16, where there is AMX.
  bool (*tiles_fit)(Pair taps, int64_t c_in) = [](Pair, int64_t) { return false; };
  void (*forward_by_tiles)(const float* padded, int64_t padded_width, int64_t c_in, const float* kernel, Pair taps,
                           int64_t c_out, Pair stride, int64_t first, int64_t last, int64_t width,
                           float* out) = nullptr;

  auto finish_of(const float*) const { return finish; }
  auto finish_of(const BFloat16*) const { return finish_rounded; }
};

constexpr int64_t kCached = 1 << 17;  // floats that a second-level cache of 512 KiB to 1 MiB holds
constexpr int64_t kLaidOut = 1 << 24;  // floats of kernels that are laid out at a time, one kernel at least

#define INNER_LOOPS(n, instructions)                                                                                \
  InnerLoops {                                                                                                      \
    instructions, n::kLanes, n::kWide, &n::Forward, &n::KernelGradient, &n::TransformKernel,                        \
        &n::KernelFromTransform, &n::WinogradRoom, &n::WinogradForward, &n::TilesAtOnce, n::kWinogradGradients,     \
        &n::Depthwise, &n::Finish<float>, &n::FinishGradient, &n::Finish<BFloat16>, &n::RoundAll, &n::PairRows, \
        &n::Share, &n::FactorsOfSet, &n::FactorsGradientOfSet, &n::FactorsGradientOfInput      \
  }

#ifdef TILES
// Whether there is AMX with bfloat16, and Linux lets the process use it: each thread's state must have room for tiles.
bool MayUseTiles() {
  constexpr int64_t kRequestPermission = 0x1023, kTileData = 18;
  static const bool may =
      __builtin_cpu_supports("amx-bf16") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return may;
}
#endif

// Those of the widest vectors that the processor has, of at most so many lanes (tests run the narrower ones too); the
// rows of AMX's tiles are 32 of bfloat16.
InnerLoops FastestLoops(int64_t most_lanes) {
#ifdef SEVERAL_INSTRUCTION_SETS
  __builtin_cpu_init();
  if (most_lanes >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    InnerLoops loops = INNER_LOOPS(avx512, "AVX-512");
#ifdef TILES
    if (most_lanes >= 32 && MayUseTiles()) {
      loops.instructions = "AMX";
      loops.tiles_fit = &avx512::TilesFit, loops.forward_by_tiles = &avx512::ForwardByTiles;
    }
#endif
    return loops;
  }
  if (most_lanes >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return INNER_LOOPS(avx2, "AVX2");
#endif
  return INNER_LOOPS(baseline, "baseline");
}
#undef INNER_LOOPS

// Runs task(i) for i < count on the pool's threads and this one, and returns when all are done. This thread takes tasks
// too, and waits only for tasks that a running thread has taken, so a pool whose every thread waits here still ends.
// What a task throws, on whichever thread, is thrown here when no thread runs one any more.
void Parallel(ffi::ThreadPool& pool, int64_t count, const std::function<void(int64_t)>& task) {
  struct State {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::exception_ptr thrown;
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
    std::exception_ptr thrown;
    for (int64_t i; (i = state->next.fetch_add(1)) < count; ++mine) {
      if (thrown) continue;
      try {
        task(i);
      } catch (...) {
        thrown = std::current_exception();
      }
    }
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(state->mutex);
    if (thrown) state->thrown = thrown;
    if ((state->done += mine) == count) state->all_done.notify_all();
  };
  try {
    for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(work));
  } catch (...) {  // out of memory: with fewer helpers
  }
  work();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done == count; });
  if (state->thrown) std::rethrow_exception(state->thrown);
}

// Memory that a thread keeps from call to call: fresh pages would cost more than what is written to them. Of an image's
// size, or of the kernels laid out at a time; nothing here grows with the batch.
float* Scratch(int which, int64_t size) {
  constexpr int64_t kLine = 64;  // bytes that a cache holds together; vectors and tiles are read from their beginnings
  thread_local std::vector<float> buffers[5];
  auto& buffer = buffers[which];
  if (static_cast<int64_t>(buffer.size()) < size + kLine / 4) buffer.resize(size + kLine / 4);
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(buffer.data()) + kLine - 1) / kLine * kLine);
}

// Memory of one call, as large as its batch, that the next takes, on whichever of XLA's threads that runs: fresh pages
// would cost a twentieth of a training step, and memory of each thread's own would be there as often as there are
// threads. As many are kept as calls have run at once.
class Workspace {
 public:
  explicit Workspace(int64_t size) {
    {
      std::lock_guard<std::mutex> lock(Kept().mutex);
      auto& buffers = Kept().buffers;
      const auto largest = std::max_element(buffers.begin(), buffers.end(),
                                            [](const auto& a, const auto& b) { return a.size() < b.size(); });
      if (largest != buffers.end()) {
        buffer_ = std::move(*largest);
        buffers.erase(largest);
      }
    }
    if (static_cast<int64_t>(buffer_.size()) < size) {
      buffer_ = {};  // before there is another
      buffer_.resize(size);
    }
  }
  ~Workspace() {
    std::lock_guard<std::mutex> lock(Kept().mutex);
    try {
      Kept().buffers.push_back(std::move(buffer_));
    } catch (...) {  // out of memory: it is given back
    }
  }
  Workspace(const Workspace&) = delete;
  float* data() { return buffer_.data(); }

 private:
  struct Buffers {
    std::mutex mutex;
    std::vector<std::vector<float>> buffers;
  };
  static Buffers& Kept() {
    static Buffers* kept = new Buffers;  // never destroyed: XLA's threads may outlive what is static
    return *kept;
  }
  std::vector<float> buffer_;
};

// How many floats hold a pixel's numbers, in pairs or one by one.
int64_t PixelSize(int64_t channels, bool pairs) { return pairs ? Ceil(channels, 2) : channels; }

// Some pixels, one after the other, as the inner loops read them: float32, or, if `pairs`, bfloat16 in pairs, each in a
// float's place.
template <class T>
void CopyPixels(float* to, const T* from, int64_t count, int64_t channels, bool pairs) {
  const int64_t size = PixelSize(channels, pairs);
  if (std::is_same_v<T, float> || (pairs && channels % 2 == 0)) {
    std::memcpy(to, from, count * channels * sizeof(T));
  } else if (pairs) {
    for (; count > 0; --count, to += size, from += channels) {
      to[size - 1] = 0;
      std::memcpy(to, from, channels * sizeof(T));
    }
  } else {
    for (int64_t i = 0; i < count * channels; ++i) to[i] = Widen(from[i]);
  }
}

// Numbers as they are, or those of bfloat16 elsewhere.
const float* AsFloats(const float* numbers, int64_t) { return numbers; }
const float* AsFloats(const BFloat16* numbers, int64_t count) {
  float* to = Scratch(4, count);
  CopyPixels(to, numbers, count, 1, false);
  return to;
}

// Rows [first, last) of an image surrounded by zeros, its pixels `step` apart; `before` is what comes before pixel 0.
template <class T>
void Pad(float* padded, const T* image, Pair size, int64_t channels, Pair before, Pair step, int64_t first,
         int64_t last, int64_t width, bool pairs = false) {
  const int64_t pixel = PixelSize(channels, pairs);
  std::memset(padded, 0, (last - first) * width * pixel * sizeof(float));
  for (int64_t y = 0; y < size.h; ++y) {
    const int64_t row = before.h + y * step.h;
    if (row < first || row >= last) continue;
    float* to = padded + (row - first) * width * pixel;
    const T* from = image + y * size.w * channels;
    if (step.w == 1) {
      const int64_t start = std::max<int64_t>(before.w, 0), skipped = start - before.w;
      const int64_t count = std::min(size.w - skipped, width - start);
      if (count > 0) CopyPixels(to + start * pixel, from + skipped * channels, count, channels, pairs);
      continue;
    }
    for (int64_t x = 0; x < size.w; ++x) {
      const int64_t column = before.w + x * step.w;
      if (column >= 0 && column < width) CopyPixels(to + column * pixel, from + x * channels, 1, channels, pairs);
    }
  }
}

// How many numbers Pack lays out. Block o of a matrix of `rows` rows, of `width` columns, begins at o * rows * width.
int64_t PackedSize(int64_t rows, int64_t columns, int64_t lanes) { return rows * Ceil(columns, lanes) * lanes; }

// Some rows of a matrix (`columns` apart) in blocks of 2 * lanes columns, the last of lanes if that is enough, filled
// up with zeros: what the inner loops read is then contiguous. `rows` is what the whole matrix has, `at` the first of
// these.
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

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t Places __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Places{__VA_ARGS__})
#endif

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
      const Vector e = SHUFFLE(a, b, 0, 4, 1, 5), f = SHUFFLE(c, d, 0, 4, 1, 5);
      const Vector g = SHUFFLE(a, b, 2, 6, 3, 7), h = SHUFFLE(c, d, 2, 6, 3, 7);
      float* q = to + o * c_in + i;
      *reinterpret_cast<Vector*>(q) = SHUFFLE(e, f, 0, 1, 4, 5);
      *reinterpret_cast<Vector*>(q + c_in) = SHUFFLE(e, f, 2, 3, 6, 7);
      *reinterpret_cast<Vector*>(q + 2 * c_in) = SHUFFLE(g, h, 0, 1, 4, 5);
      *reinterpret_cast<Vector*>(q + 3 * c_in) = SHUFFLE(g, h, 2, 3, 6, 7);
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

template <ffi::DataType type>
using Images = ffi::Buffer<type, 4>;
using Array = Images<ffi::F32>;
using Bank = ffi::Buffer<ffi::F32, 5>;
using Index = ffi::Buffer<ffi::S32, 1>;
using Numbers = ffi::Buffer<ffi::F32, 1>;
using Vectors = ffi::Buffer<ffi::F32, 2>;

// The images that have a kernel, ordered by it; those of kernel k are images[begins[k]] … images[begins[k + 1] - 1].
struct ByKernel {
  std::vector<int64_t> images, begins;
  int64_t Uses(int64_t kernel) const { return begins[kernel + 1] - begins[kernel]; }
};

// Fails if an index is no place in the bank: the one thing that would read memory that is not ours.
ffi::ErrorOr<ByKernel> GroupByKernel(const Index& index, int64_t kernels) {
  const int64_t count = index.element_count();
  ByKernel by_kernel;
  by_kernel.begins.assign(kernels + 1, 0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t kernel = index.typed_data()[i];
    if (kernel < -1 || kernel >= kernels)
      return ffi::Unexpected(ffi::Error::InvalidArgument("index " + std::to_string(kernel) + " of image " +
                                                         std::to_string(i) + " is no kernel of a bank of " +
                                                         std::to_string(kernels)));
    if (kernel >= 0) ++by_kernel.begins[kernel + 1];
  }
  for (int64_t kernel = 0; kernel < kernels; ++kernel) by_kernel.begins[kernel + 1] += by_kernel.begins[kernel];
  by_kernel.images.resize(by_kernel.begins[kernels]);
  std::vector<int64_t> next(by_kernel.begins);
  for (int64_t i = 0; i < count; ++i)
    if (const int64_t kernel = index.typed_data()[i]; kernel >= 0) by_kernel.images[next[kernel]++] = i;
  return by_kernel;
}

// Forward, and the image gradient, which is a forward map of the cotangents (`step` apart) with kernels turned by 180
// degrees, their channels exchanged. Of float32 or bfloat16 images, `out` is of the same type.
// `finish(image, map)` is called once all of an image's map is there, in float32: in the image's place in `out`, or, of
// bfloat16, elsewhere.
template <ffi::DataType type>
ffi::Error Correlate(ffi::ThreadPool& pool, const InnerLoops& loops, const Images<type>& images, const Index& index,
                     const Bank& bank, Images<type>& out, bool turned, Pair stride, Pair before, Pair step,
                     const std::function<void(int64_t, float*)>& finish) {
  using T = ffi::NativeType<type>;
  constexpr bool rounded = std::is_same_v<T, BFloat16>;
  const auto x = images.dimensions(), k = bank.dimensions(), y = out.dimensions();
  const Pair size{x[1], x[2]}, taps{k[1], k[2]}, map{y[1], y[2]};
  const int64_t channels = x[3], c_out = y[3], bank_size = k[0], map_size = map.h * map.w * c_out;
  const bool pairs = rounded && loops.tiles_fit(taps, PixelSize(channels, true));
  const bool winograd = !pairs && step.h == 1 && step.w == 1 && TakesWinograd(taps, stride, channels, c_out, map);
  const int64_t c_in = PixelSize(channels, pairs), rows = (winograd ? 16 : taps.h * taps.w) * c_in;
  auto grouped = GroupByKernel(index, bank_size);
  if (!grouped) return grouped.error();
  const ByKernel& by_kernel = *grouped;
  const int64_t count = by_kernel.images.size(), packed_size = PackedSize(rows, c_out, loops.lanes);
  for (int64_t i = 0; i < static_cast<int64_t>(x[0]); ++i)
    if (index.typed_data()[i] < 0) std::memset(out.typed_data() + i * map_size, 0, map_size * sizeof(T));
  if (count * map_size == 0) return ffi::Error::Success();
  if (rows == 0) {
    std::memset(out.typed_data(), 0, out.size_bytes());
    return ffi::Error::Success();
  }
  // A kernel that serves a single image, in an order that can be read, is read where it lies.
  const auto packs = [&](int64_t kernel) {
    const int64_t uses = by_kernel.Uses(kernel);
    return uses > 1 || (uses > 0 && (winograd || turned || pairs || c_out % loops.lanes));
  };
  std::vector<int64_t> places(bank_size, -1), packed;
  float* laid_out = nullptr;
  const int64_t tap_count = taps.h * taps.w, matrix = channels * c_out;
  // `count` rows of a kernel, from row `at` on, in the order of the inner loops.
  const auto pack = [&](const float* from, int64_t count, int64_t at, int64_t place) {
    if (turned) {
      float* transposed = Scratch(1, matrix);
      Transpose(from, c_out, channels, transposed);
      from = transposed;
    }
    if (pairs) {
      float* paired = Scratch(3, c_in * c_out);
      loops.pair_rows(from, count, c_out, paired);
      from = paired, count = c_in;
    }
    Pack(from, count, c_out, loops.lanes, rows, at, laid_out + place * packed_size);
  };
  // Rows of the map, or of its tiles, which an image's pieces divide.
  const Pair by = winograd ? Pair{Ceil(map.h, 2), Ceil(map.w, 2)} : map;
  const Pair apart = winograd ? Pair{2, 2} : stride, reach = winograd ? Pair{4, 4} : taps;
  const int64_t pieces = std::clamp<int64_t>(Ceil(4 * pool.num_threads(), count), 1, by.h);
  const int64_t width = (by.w - 1) * apart.w + reach.w;
  // Maps to be rounded stay in a cache where a task makes all of one.
  std::optional<Workspace> maps;
  if (rounded && pieces > 1) maps.emplace(count * map_size);
  const auto map_of = [&](int64_t i) {
    if constexpr (!rounded) return out.typed_data() + by_kernel.images[i] * map_size;
    return maps ? maps->data() + i * map_size : Scratch(4, map_size);
  };
  const auto run = [&](int64_t task) {
    const int64_t i = task / pieces, piece = task % pieces, image = by_kernel.images[i];
    const int64_t kernel = index.typed_data()[image];
    const int64_t first = piece * by.h / pieces, last = (piece + 1) * by.h / pieces;
    float* padded = Scratch(0, ((last - 1 - first) * apart.h + reach.h) * width * c_in);
    Pad(padded, images.typed_data() + image * size.h * size.w * channels, size, channels, before, step,
        first * apart.h, (last - 1) * apart.h + reach.h, width, pairs);
    const bool own = places[kernel] < 0;
    const float* weights = own ? bank.typed_data() + kernel * rows * c_out : laid_out + places[kernel] * packed_size;
    float* to = map_of(i);
    if (winograd)
      loops.winograd_forward(padded, width, c_in, weights, c_out, first, last, map, to,
                             Scratch(1, loops.winograd_room(c_in)));
    else if (pairs)
      loops.forward_by_tiles(padded, width, c_in, weights, taps, c_out, stride, first, last, map.w, to);
    else
      loops.forward(padded, width, c_in, weights, own, taps, c_out, stride, first, last, map.w, to);
    if (finish && pieces == 1) finish(image, to);
  };
  for (int64_t begin = 0, end; begin < bank_size; begin = end) {
    end = std::min(begin + std::max<int64_t>(kLaidOut / packed_size, 1), bank_size);
    packed.clear();
    for (int64_t kernel = begin; kernel < end; ++kernel)
      if (packs(kernel)) places[kernel] = packed.size(), packed.push_back(kernel);
    laid_out = Scratch(2, packed.size() * packed_size);
    if (winograd) {
      // Rows that are transformed together stay in the cache, but what is to be transposed is transformed as a whole.
      const int64_t most = turned ? c_in : std::max<int64_t>(1024 / c_out, 1);
      Parallel(pool, packed.size() * 4, [&](int64_t task) {
        const float* weights = bank.typed_data() + packed[task / 4] * 9 * matrix;
        float* transformed = Scratch(3, 4 * most * c_out);
        for (int64_t i = 0; i < c_in; i += most) {
          const int64_t count = std::min(most, c_in - i), n = count * c_out;
          loops.transform_kernel(weights + i * c_out, matrix, n, task % 4, turned, transformed);
          for (int64_t p = 0; p < 4; ++p) pack(transformed + p * n, count, (task % 4 * 4 + p) * c_in + i, task / 4);
        }
      });
    } else {
      Parallel(pool, packed.size() * tap_count, [&](int64_t task) {
        const int64_t tap = task % tap_count, place = task / tap_count;
        const int64_t from = packed[place] * tap_count + (turned ? tap_count - 1 - tap : tap);
        pack(bank.typed_data() + from * matrix, channels, tap * c_in, place);
      });
    }
    const int64_t from = by_kernel.begins[begin];
    Parallel(pool, (by_kernel.begins[end] - from) * pieces, [&](int64_t task) { run(from * pieces + task); });
  }
  if (finish && pieces > 1) Parallel(pool, count, [&](int64_t i) { finish(by_kernel.images[i], map_of(i)); });
  return ffi::Error::Success();
}

// What finishes a map that only has to be of type T.
template <class T>
std::function<void(int64_t, float*)> Rounding(const InnerLoops& loops, T* out, int64_t map_size) {
  if constexpr (std::is_same_v<T, float>) return nullptr;
  else
    return [=, round = loops.round](int64_t image, float* map) { round(map, map_size, out + image * map_size); };
}

int64_t ImageSize(const auto& images) {
  const auto shape = images.dimensions();
  return shape[1] * shape[2] * shape[3];
}

template <ffi::DataType type>
ffi::Error ForwardHandler(ffi::ThreadPool pool, Images<type> images, Index index, Bank bank,
                          ffi::Result<Images<type>> out, int64_t stride_h, int64_t stride_w, int64_t top, int64_t left,
                          int64_t lanes) {
  const InnerLoops loops = FastestLoops(lanes);
  return Correlate<type>(pool, loops, images, index, bank, *out, false, {stride_h, stride_w}, {top, left}, {1, 1},
                         Rounding(loops, out->typed_data(), ImageSize(*out)));
}

// Depthwise, forward and the image gradient, as above; banks are (S, K_h, K_w, C).
template <ffi::DataType type>
ffi::Error CorrelateDepthwise(ffi::ThreadPool& pool, const InnerLoops& loops, const Images<type>& images,
                              const Index& index, const Array& bank, Images<type>& out, bool turned, Pair stride,
                              Pair before, Pair step) {
  using T = ffi::NativeType<type>;
  const auto x = images.dimensions(), k = bank.dimensions(), y = out.dimensions();
  const Pair size{x[1], x[2]}, taps{k[1], k[2]}, map{y[1], y[2]};
  const int64_t c = y[3], map_size = map.h * map.w * c, total = taps.h * taps.w;
  auto grouped = GroupByKernel(index, k[0]);
  if (!grouped) return grouped.error();
  const int64_t height = (map.h - 1) * stride.h + taps.h, width = (map.w - 1) * stride.w + taps.w;
  const auto round = Rounding(loops, out.typed_data(), map_size);
  Parallel(pool, x[0], [&](int64_t image) {
    T* to = out.typed_data() + image * map_size;
    const int64_t kernel = index.typed_data()[image];
    if (kernel < 0 || total == 0) {
      std::memset(to, 0, map_size * sizeof(T));
      return;
    }
    float* padded = Scratch(0, height * width * c + loops.lanes);
    Pad(padded, images.typed_data() + image * size.h * size.w * c, size, c, before, step, 0, height, width);
    const float* own = bank.typed_data() + kernel * total * c;
    if (turned) {
      float* backwards = Scratch(1, total * c);
      for (int64_t t = 0; t < total; ++t) std::memcpy(backwards + t * c, own + (total - 1 - t) * c, c * sizeof(float));
      own = backwards;
    }
    float* sums = round ? Scratch(4, map_size) : reinterpret_cast<float*>(to);
    loops.depthwise(padded, width, c, own, taps, stride, map, nullptr, sums);
    if (round) round(image, sums);
  });
  return ffi::Error::Success();
}

template <ffi::DataType type>
ffi::Error DepthwiseForwardHandler(ffi::ThreadPool pool, Images<type> images, Index index, Array bank,
                                   ffi::Result<Images<type>> out, int64_t stride_h, int64_t stride_w, int64_t top,
                                   int64_t left, int64_t lanes) {
  return CorrelateDepthwise<type>(pool, FastestLoops(lanes), images, index, bank, *out, false, {stride_h, stride_w},
                                  {top, left}, {1, 1});
}

template <ffi::DataType type>
ffi::Error DepthwiseImageGradientHandler(ffi::ThreadPool pool, Images<type> cotangents, Index index, Array bank,
                                         ffi::Result<Images<type>> out, int64_t stride_h, int64_t stride_w,
                                         int64_t top, int64_t left, int64_t lanes) {
  const auto k = bank.dimensions();
  return CorrelateDepthwise<type>(pool, FastestLoops(lanes), cotangents, index, bank, *out, true, {1, 1},
                                  {k[1] - 1 - top, k[2] - 1 - left}, {stride_h, stride_w});
}

// Each image's own gradient, then their sum over the images of a kernel, in the order of the batch.
ffi::Error DepthwiseKernelGradientHandler(ffi::ThreadPool pool, Array images, Array cotangents, Index index,
                                          ffi::Result<Array> out, int64_t stride_h, int64_t stride_w, int64_t top,
                                          int64_t left, int64_t lanes) {
  const InnerLoops loops = FastestLoops(lanes);
  const auto x = images.dimensions(), g = cotangents.dimensions(), k = out->dimensions();
  const Pair size{x[1], x[2]}, taps{k[1], k[2]}, map{g[1], g[2]}, stride{stride_h, stride_w};
  const int64_t c = k[3], numbers = taps.h * taps.w * c;
  auto grouped = GroupByKernel(index, k[0]);
  if (!grouped) return grouped.error();
  const ByKernel& by_kernel = *grouped;
  const int64_t height = (map.h - 1) * stride.h + taps.h, width = (map.w - 1) * stride.w + taps.w;
  Workspace workspace(by_kernel.images.size() * numbers);
  float* of_images = workspace.data();
  Parallel(pool, by_kernel.images.size(), [&](int64_t i) {
    const int64_t image = by_kernel.images[i];
    float* padded = Scratch(0, height * width * c + loops.lanes);
    Pad(padded, images.typed_data() + image * size.h * size.w * c, size, c, {top, left}, {1, 1}, 0, height, width);
    loops.depthwise(padded, width, c, nullptr, taps, stride, map, cotangents.typed_data() + image * map.h * map.w * c,
                  of_images + i * numbers);
  });
  for (int64_t kernel = 0; kernel < static_cast<int64_t>(k[0]); ++kernel) {
    float* to = out->typed_data() + kernel * numbers;
    std::memset(to, 0, numbers * sizeof(float));
    for (int64_t i = by_kernel.begins[kernel]; i < by_kernel.begins[kernel + 1]; ++i)
      for (int64_t n = 0; n < numbers; ++n) to[n] += of_images[i * numbers + n];
  }
  return ffi::Error::Success();
}

// A layer: forward, normalisation over groups of channels, ReLU, the layer's input added (each of the last two if asked
// for); and the mean over the map.
template <ffi::DataType type>
ffi::Error LayerHandler(ffi::ThreadPool pool, Images<type> images, Index index, Bank bank, Numbers scale,
                        Numbers shift, ffi::Result<Images<type>> out, ffi::Result<Vectors> means, int64_t stride_h,
                        int64_t stride_w, int64_t top, int64_t left, int64_t lanes, int64_t groups, int64_t relu,
                        float epsilon, int64_t residual) {
  const InnerLoops loops = FastestLoops(lanes);
  const auto y = out->dimensions();
  const int64_t pixels = y[1] * y[2], c = y[3], size = pixels * c;
  std::memset(means->typed_data(), 0, means->size_bytes());
  return Correlate<type>(pool, loops, images, index, bank, *out, false, {stride_h, stride_w}, {top, left}, {1, 1},
                         [&](int64_t image, float* map) {
                           loops.finish_of(out->typed_data())(
                               map, pixels, c, groups, scale.typed_data(), shift.typed_data(), epsilon, relu,
                               residual ? images.typed_data() + image * size : nullptr,
                               out->typed_data() + image * size, means->typed_data() + image * c, Scratch(1, 3 * c));
                         });
}

// What a layer does after its convolution, and its gradient; an image without a kernel gets zeros.
template <ffi::DataType type>
ffi::Error FinishHandler(ffi::ThreadPool pool, Images<type> maps, Index index, Images<type> images, Numbers scale,
                         Numbers shift, ffi::Result<Images<type>> out, ffi::Result<Vectors> means, int64_t lanes,
                         int64_t groups, int64_t relu, float epsilon, int64_t residual) {
  using T = ffi::NativeType<type>;
  const InnerLoops loops = FastestLoops(lanes);
  const auto y = maps.dimensions();
  const int64_t pixels = y[1] * y[2], c = y[3], size = pixels * c;
  Parallel(pool, y[0], [&](int64_t image) {
    T* to = out->typed_data() + image * size;
    float* mean = means->typed_data() + image * c;
    if (index.typed_data()[image] < 0) {
      std::memset(to, 0, size * sizeof(T));
      std::memset(mean, 0, c * sizeof(float));
      return;
    }
    loops.finish_of(to)(AsFloats(maps.typed_data() + image * size, size), pixels, c, groups, scale.typed_data(),
                        shift.typed_data(), epsilon, relu, residual ? images.typed_data() + image * size : nullptr, to,
                        mean, Scratch(1, 3 * c));
  });
  return ffi::Error::Success();
}

ffi::Error FinishGradientHandler(ffi::ThreadPool pool, Array cotangents, Array maps, Index index, Numbers scale,
                                 Numbers shift, ffi::Result<Array> out, ffi::Result<Vectors> of_scale,
                                 ffi::Result<Vectors> of_shift, int64_t lanes, int64_t groups, int64_t relu,
                                 float epsilon) {
  const InnerLoops loops = FastestLoops(lanes);
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
    loops.finish_gradient(maps.typed_data() + image * size, cotangents.typed_data() + image * size, pixels, c, groups,
                        scale.typed_data(), shift.typed_data(), epsilon, relu, to, sums, other_sums, Scratch(1, 7 * c));
  });
  return ffi::Error::Success();
}

template <ffi::DataType type>
ffi::Error ImageGradientHandler(ffi::ThreadPool pool, Images<type> cotangents, Index index, Bank bank,
                                ffi::Result<Images<type>> out, int64_t stride_h, int64_t stride_w, int64_t top,
                                int64_t left, int64_t lanes) {
  const InnerLoops loops = FastestLoops(lanes);
  const auto k = bank.dimensions();
  return Correlate<type>(pool, loops, cotangents, index, bank, *out, true, {1, 1},
                         {k[1] - 1 - top, k[2] - 1 - left}, {stride_h, stride_w},
                         Rounding(loops, out->typed_data(), ImageSize(*out)));
}

// The kernels' gradients, transformed, in tasks of a kernel, a row of its positions and some input channels; and from
// them the gradients.
void WinogradKernelGradient(ffi::ThreadPool& pool, const InnerLoops& loops, const Array& images,
                            const Array& cotangents, const ByKernel& by_kernel, Pair before, int64_t c_in,
                            int64_t c_out, float* out) {
  const auto x = images.dimensions(), g = cotangents.dimensions();
  const Pair map{g[1], g[2]}, tiles{Ceil(map.h, 2), Ceil(map.w, 2)};
  const int64_t bank_size = by_kernel.begins.size() - 1, count = by_kernel.images.size(), matrix = c_in * c_out;
  const int64_t height = 2 * tiles.h + 2, width = 2 * tiles.w + 2, size = height * width * c_in;
  const bool even = map.h % 2 == 0 && map.w % 2 == 0;
  const int64_t cotangent_size = even ? 0 : 4 * tiles.h * tiles.w * c_out;
  const int64_t kernels_at_once = std::min(std::max<int64_t>(kLaidOut / (16 * matrix), 1), bank_size);
  Workspace workspace(kernels_at_once * 16 * matrix + count * (size + cotangent_size));
  float *transformed = workspace.data(), *laid_out = transformed + kernels_at_once * 16 * matrix;
  std::vector<const float*> padded(count), seen(count);
  Parallel(pool, count, [&](int64_t i) {
    float* to = laid_out + i * (size + cotangent_size);
    Pad(to, images.typed_data() + by_kernel.images[i] * x[1] * x[2] * c_in, {x[1], x[2]}, c_in, before, {1, 1}, 0,
        height, width);
    padded[i] = to;
    seen[i] = cotangents.typed_data() + by_kernel.images[i] * map.h * map.w * c_out;
    if (even) return;
    Pad(to + size, seen[i], map, c_out, {0, 0}, {1, 1}, 0, 2 * tiles.h, 2 * tiles.w);
    seen[i] = to + size;
  });
  struct Task {
    int64_t uses, kernel, row, first, last;
  };
  const int64_t blocks = Ceil(c_in, loops.wide), wanted = pool.num_threads();
  for (int64_t begin = 0, end; begin < bank_size; begin = end) {
    end = std::min(begin + kernels_at_once, bank_size);
    std::vector<Task> tasks;
    for (int64_t kernel = begin; kernel < end; ++kernel) {
      const int64_t uses = by_kernel.Uses(kernel);
      if (uses == 0) std::memset(out + kernel * 9 * matrix, 0, 9 * matrix * sizeof(float));
      const int64_t pieces = uses ? std::min(Ceil(wanted * uses, 2 * count), blocks) : 0;
      for (int64_t p = 0; p < pieces; ++p)
        for (int64_t row = 0; row < 4; ++row)
          tasks.push_back({uses, kernel, row, p * blocks / pieces * loops.wide,
                           std::min((p + 1) * blocks / pieces * loops.wide, c_in)});
    }
    // The longest first, so that no thread begins one when the others have ended.
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.uses > b.uses; });
    Parallel(pool, tasks.size(), [&](int64_t t) {
      const auto [uses, kernel, row, first, last] = tasks[t];
      const int64_t at_once = loops.tiles_at_once(last - first, c_out, kCached);
      float* work = Scratch(0, kCached + 4 * (last - first + c_out + 2 * loops.lanes));
      loops.winograd_gradients[row](uses, padded.data() + by_kernel.begins[kernel], width, c_in,
                                    seen.data() + by_kernel.begins[kernel], tiles, c_out, first, last, at_once,
                                    transformed + ((kernel - begin) * 16 + row * 4) * matrix, work);
    });
    const int64_t pieces = 4;
    Parallel(pool, (end - begin) * pieces, [&](int64_t task) {
      const int64_t kernel = begin + task / pieces, piece = task % pieces, first = piece * matrix / pieces;
      const int64_t n = (piece + 1) * matrix / pieces - first;
      if (by_kernel.Uses(kernel) > 0)
        loops.kernel_from_transform(transformed + (kernel - begin) * 16 * matrix + first, matrix, n,
                                    out + kernel * 9 * matrix + first);
    });
  }
}

ffi::Error KernelGradientHandler(ffi::ThreadPool pool, Array images, Array cotangents, Index index,
                                 ffi::Result<Bank> out, int64_t stride_h, int64_t stride_w, int64_t top, int64_t left,
                                 int64_t lanes) {
  const InnerLoops loops = FastestLoops(lanes);
  const auto x = images.dimensions(), g = cotangents.dimensions(), k = out->dimensions();
  const int64_t bank_size = k[0], rows = k[1] * k[2] * k[3], c_in = k[3], c_out = k[4], pixels = g[1] * g[2];
  const Pair taps{k[1], k[2]}, map{g[1], g[2]}, stride{stride_h, stride_w};
  auto grouped = GroupByKernel(index, bank_size);
  if (!grouped) return grouped.error();
  const ByKernel& by_kernel = *grouped;
  if (TakesWinograd(taps, stride, c_in, c_out, map)) {
    WinogradKernelGradient(pool, loops, images, cotangents, by_kernel, {top, left}, c_in, c_out,
                           out->typed_data());
    return ffi::Error::Success();
  }
  const int64_t count = by_kernel.images.size();
  const int64_t height = (map.h - 1) * stride.h + taps.h, width = (map.w - 1) * stride.w + taps.w;
  const int64_t size = height * width * c_in, packed_size = PackedSize(pixels, c_out, loops.lanes);
  // Images and cotangents as the inner loops read them, those of a kernel side by side.
  Workspace laid_out(count * (size + packed_size));
  std::vector<const float*> padded(count), packed(count);
  Parallel(pool, count, [&](int64_t i) {
    float* to = laid_out.data() + i * (size + packed_size);
    Pad(to, images.typed_data() + by_kernel.images[i] * x[1] * x[2] * c_in, {x[1], x[2]}, c_in, {top, left}, {1, 1}, 0,
        height, width);
    Pack(cotangents.typed_data() + by_kernel.images[i] * pixels * c_out, pixels, c_out, loops.lanes, pixels, 0,
         to + size);
    padded[i] = to, packed[i] = to + size;
  });
  // Tasks of about equal work: the rows of a kernel in as many pieces as it has images for.
  struct Task {
    int64_t kernel, first, last;
  };
  std::vector<Task> tasks;
  const int64_t tiles = Ceil(rows, loops.wide), wanted = 4 * pool.num_threads();
  for (int64_t kernel = 0; kernel < bank_size; ++kernel) {
    const int64_t uses = by_kernel.Uses(kernel);
    const int64_t pieces = std::clamp<int64_t>(count ? Ceil(wanted * uses, count) : 1, 1, std::max<int64_t>(tiles, 1));
    for (int64_t p = 0; p < pieces; ++p)
      tasks.push_back({kernel, p * tiles / pieces * loops.wide, std::min((p + 1) * tiles / pieces * loops.wide, rows)});
  }
  const int64_t at_once = std::max<int64_t>(kCached / (size + packed_size + 1), 1);
  Parallel(pool, tasks.size(), [&](int64_t t) {
    const auto [kernel, first, last] = tasks[t];
    const int64_t begin = by_kernel.begins[kernel], end = by_kernel.begins[kernel + 1];
    float* to = out->typed_data() + kernel * rows * c_out;
    if (begin == end || pixels == 0) std::memset(to + first * c_out, 0, (last - first) * c_out * sizeof(float));
    for (int64_t i = begin; i < end && pixels; i += at_once)
      loops.kernel_gradient(std::min(at_once, end - i), padded.data() + i, width, c_in, packed.data() + i, map, taps.w,
                            c_out, stride, first, last, to, i > begin);
  });
  return ffi::Error::Success();
}

using Sets = ffi::Buffer<ffi::F32, 3>;

// Standardised kernels that stay factors (factors.inc); a set whose index is -1 gets zeros.
ffi::Error FactorsHandler(ffi::ThreadPool pool, Sets taps, Index index, Vectors v, Vectors u, ffi::Result<Sets> out,
                          int64_t lanes, float epsilon) {
  const InnerLoops loops = FastestLoops(lanes);
  const auto shape = taps.dimensions();
  const int64_t sets = shape[0], t = shape[1], products = shape[2], i = v.dimensions()[0], outs = u.dimensions()[1];
  const int64_t r = Ceil(products, loops.lanes) * loops.lanes, o = Ceil(outs, loops.lanes) * loops.lanes;
  const int64_t size = (products + 1) * outs;
  Workspace shared(SharedFactorsRoom(i, r, o));
  const auto factors = loops.share(v.typed_data(), u.typed_data(), t, i, products, outs, epsilon, shared.data());
  Parallel(pool, sets, [&](int64_t s) {
    float* to = out->typed_data() + s * size;
    if (index.typed_data()[s] < 0) {
      std::memset(to, 0, size * sizeof(float));
    } else {
      float* room = Scratch(0, FactorsRoom(t, r, o));
      loops.factors(factors, taps.typed_data() + s * t * products, room, to);
    }
  });
  return ffi::Error::Success();
}

ffi::Error FactorsGradientHandler(ffi::ThreadPool pool, Sets cotangents, Sets taps, Index index, Vectors v, Vectors u,
                                  ffi::Result<Sets> of_taps, ffi::Result<Vectors> of_v, ffi::Result<Vectors> of_u,
                                  int64_t lanes, float epsilon) {
  const InnerLoops loops = FastestLoops(lanes);
  const auto shape = taps.dimensions();
  const int64_t sets = shape[0], t = shape[1], products = shape[2], i = v.dimensions()[0], outs = u.dimensions()[1];
  const int64_t r = Ceil(products, loops.lanes) * loops.lanes, o = Ceil(outs, loops.lanes) * loops.lanes;
  const int64_t part = r * o + r * r + r, shared_room = SharedFactorsRoom(i, r, o);
  Workspace workspace(shared_room + sets * part + i * r);
  float *parts = workspace.data() + shared_room, *room = parts + sets * part;
  const auto factors = loops.share(v.typed_data(), u.typed_data(), t, i, products, outs, epsilon, workspace.data());
  std::vector<int64_t> used;
  for (int64_t s = 0; s < sets; ++s)
    if (index.typed_data()[s] >= 0) used.push_back(s);
  std::memset(of_taps->typed_data(), 0, of_taps->size_bytes());
  Parallel(pool, used.size(), [&](int64_t n) {
    float* to = parts + n * part;
    loops.factors_gradient(factors, taps.typed_data() + used[n] * t * products,
                           cotangents.typed_data() + used[n] * (products + 1) * outs,
                           Scratch(0, FactorsRoom(t, r, o)), of_taps->typed_data() + used[n] * t * products,
                           to, to + r * o, to + r * o + r * r);
  });
  if (used.empty()) std::memset(parts, 0, part * sizeof(float));
  for (int64_t n = 1; n < static_cast<int64_t>(used.size()); ++n)  // in their order, whichever thread made them
    for (int64_t at = 0; at < part; ++at) parts[at] += parts[n * part + at];
  for (int64_t k = 0; k < products; ++k) std::memcpy(of_u->typed_data() + k * outs, parts + k * o, outs * sizeof(float));
  loops.factors_gradient_of_input(factors, parts + r * o, parts + r * o + r * r, room, of_v->typed_data());
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
  return std::move(binding)
      .template Attr<int64_t>("groups")
      .template Attr<int64_t>("relu")
      .template Attr<float>("epsilon");
}

auto Bind() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

template <ffi::DataType type, class Kernels = Bank>
auto BindMap() {
  auto operands = Bind().template Arg<Images<type>>().template Arg<Index>().template Arg<Kernels>();
  return WithGeometry(std::move(operands).template Ret<Images<type>>());
}

template <ffi::DataType type>
auto BindDepthwise() {
  return BindMap<type, Array>();
}

template <ffi::DataType type>
auto BindLayer() {
  auto operands = Bind().template Arg<Images<type>>().template Arg<Index>().template Arg<Bank>();
  auto results = std::move(operands).template Arg<Numbers>().template Arg<Numbers>().template Ret<Images<type>>();
  return WithNormalisation(WithGeometry(std::move(results).template Ret<Vectors>())).template Attr<int64_t>("residual");
}

template <ffi::DataType type>
auto BindFinish() {
  auto operands = Bind().template Arg<Images<type>>().template Arg<Index>().template Arg<Images<type>>();
  auto results = std::move(operands).template Arg<Numbers>().template Arg<Numbers>().template Ret<Images<type>>();
  return WithNormalisation(std::move(results).template Ret<Vectors>().template Attr<int64_t>("lanes"))
      .template Attr<int64_t>("residual");
}

}  // namespace

// The instructions that so many lanes at most come to on this processor.
extern "C" const char* puppet_jax_instructions(int64_t lanes) { return FastestLoops(lanes).instructions; }

#define DEFINE_OF_BOTH_TYPES(name, Handler, Binding)                                    \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_##name, Handler<ffi::F32>, Binding<ffi::F32>()); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_##name##_bfloat16, Handler<ffi::BF16>, Binding<ffi::BF16>())

DEFINE_OF_BOTH_TYPES(forward, ForwardHandler, BindMap);
DEFINE_OF_BOTH_TYPES(image_gradient, ImageGradientHandler, BindMap);
DEFINE_OF_BOTH_TYPES(depthwise_forward, DepthwiseForwardHandler, BindDepthwise);
DEFINE_OF_BOTH_TYPES(depthwise_image_gradient, DepthwiseImageGradientHandler, BindDepthwise);
DEFINE_OF_BOTH_TYPES(layer, LayerHandler, BindLayer);
DEFINE_OF_BOTH_TYPES(finish, FinishHandler, BindFinish);
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_kernel_gradient, KernelGradientHandler,
                              WithGeometry(Bind().Arg<Array>().Arg<Array>().Arg<Index>().Ret<Bank>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_depthwise_kernel_gradient, DepthwiseKernelGradientHandler,
                              WithGeometry(Bind().Arg<Array>().Arg<Array>().Arg<Index>().Ret<Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_finish_gradient, FinishGradientHandler,
                              WithNormalisation(Bind()
                                                    .Arg<Array>()
                                                    .Arg<Array>()
                                                    .Arg<Index>()
                                                    .Arg<Numbers>()
                                                    .Arg<Numbers>()
                                                    .Ret<Array>()
                                                    .Ret<Vectors>()
                                                    .Ret<Vectors>()
                                                    .Attr<int64_t>("lanes")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    puppet_jax_factors, FactorsHandler,
    Bind().Arg<Sets>().Arg<Index>().Arg<Vectors>().Arg<Vectors>().Ret<Sets>().Attr<int64_t>("lanes").Attr<float>(
        "epsilon"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_factors_gradient, FactorsGradientHandler,
                              Bind()
                                  .Arg<Sets>()
                                  .Arg<Sets>()
                                  .Arg<Index>()
                                  .Arg<Vectors>()
                                  .Arg<Vectors>()
                                  .Ret<Sets>()
                                  .Ret<Vectors>()
                                  .Ret<Vectors>()
                                  .Attr<int64_t>("lanes")
                                  .Attr<float>("epsilon"));
