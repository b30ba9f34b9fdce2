// The three bilinear maps of a per-sample convolution on a CPU, as XLA FFI handlers (see ../convolution.py for the
// maths). Operands are images (G, N, H, W, C_in), kernels (G, K_h, K_w, C_in, C_out), outputs (G, N, H', W', C_out),
// float32. Direct convolution: a kernel in this order needs no packing, so one that serves a single image costs no more
// than one that serves thousands, and no patches are ever formed. Work is spread over XLA's own thread pool, by images
// and, where they are few, by rows of them; what an image's numbers are does not depend on how.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

struct Pair {
  int64_t h, w;
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEVERAL_INSTRUCTION_SETS 1
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
namespace avx512 {
#define LANES 16
#define WIDE 12
#include "kernels.inc"
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
#undef LANES
#undef WIDE
}  // namespace avx2
#pragma GCC pop_options
#endif

namespace baseline {
#define LANES 4
#define WIDE 6
#include "kernels.inc"
#undef LANES
#undef WIDE
}  // namespace baseline

struct Set {
  int64_t lanes;
  decltype(&baseline::Forward) forward;
  decltype(&baseline::KernelGradient) kernel_gradient;
  decltype(&baseline::Mix) mix;
  decltype(&baseline::MixedGradient) mixed_gradient;
};

constexpr int64_t kTogether = baseline::kTogether;

// `most` lets tests run the other sets too: the largest number of lanes to use.
Set Choose(int64_t most) {
#ifdef SEVERAL_INSTRUCTION_SETS
  __builtin_cpu_init();
  if (most >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
    return {avx512::kLanes, &avx512::Forward, &avx512::KernelGradient, &avx512::Mix, &avx512::MixedGradient};
  if (most >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {avx2::kLanes, &avx2::Forward, &avx2::KernelGradient, &avx2::Mix, &avx2::MixedGradient};
#endif
  return {baseline::kLanes, &baseline::Forward, &baseline::KernelGradient, &baseline::Mix, &baseline::MixedGradient};
}

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
  thread_local std::vector<float> buffers[3];
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

// Rows of `from` copied `channels` apart, so that whole vectors can be read; as they are if they already lie so.
const float* Align(const float* from, int64_t rows, int64_t c_out, int64_t channels) {
  if (c_out == channels) return from;
  float* to = Scratch(1, rows * channels);
  std::memset(to, 0, rows * channels * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * channels, from + r * c_out, c_out * sizeof(float));
  return to;
}

// to[o][i] = from[i][o], four by four through registers.
void Transpose(const float* from, int64_t c_in, int64_t c_out, float* to, int64_t channels) {
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
      float* q = to + o * channels + i;
      *reinterpret_cast<Vector*>(q) = __builtin_shufflevector(e, f, 0, 1, 4, 5);
      *reinterpret_cast<Vector*>(q + channels) = __builtin_shufflevector(e, f, 2, 3, 6, 7);
      *reinterpret_cast<Vector*>(q + 2 * channels) = __builtin_shufflevector(g, h, 0, 1, 4, 5);
      *reinterpret_cast<Vector*>(q + 3 * channels) = __builtin_shufflevector(g, h, 2, 3, 6, 7);
    }
    for (; o < c_out; ++o)
      for (int64_t j = i; j < i + 4; ++j) to[o * channels + j] = from[j * c_out + o];
  }
  for (; i < c_in; ++i)
    for (int64_t o = 0; o < c_out; ++o) to[o * channels + i] = from[i * c_out + o];
}

// The kernel turned by 180 degrees, its channels exchanged, rows `channels` apart. What this thread turned last in the
// same `call` is not turned again: images of a group share a kernel.
const float* Turn(const float* kernel, int64_t taps, int64_t c_in, int64_t c_out, int64_t channels, int64_t call) {
  thread_local int64_t last_call = -1;
  thread_local const float* last_kernel = nullptr;
  float* to = Scratch(1, taps * c_out * channels);
  if (call == last_call && kernel == last_kernel) return to;
  last_call = call, last_kernel = kernel;
  if (channels != c_in) std::memset(to, 0, taps * c_out * channels * sizeof(float));
  for (int64_t t = 0; t < taps; ++t) {
    Transpose(kernel + t * c_in * c_out, c_in, c_out, to + (taps - 1 - t) * c_out * channels, channels);
  }
  return to;
}

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many pieces to cut each of `items` into, so that every thread gets a few.
int64_t Pieces(ffi::ThreadPool& pool, int64_t items, int64_t most) {
  return std::clamp<int64_t>(Ceil(4 * pool.num_threads(), items), 1, most);
}

using Array = ffi::Buffer<ffi::F32, 5>;
using Result = ffi::Result<Array>;

// Output rows of every image, in pieces: forward, and the image gradient, which is a forward map of the cotangents
// (`step` apart) with the turned kernel.
void Correlate(ffi::ThreadPool& pool, const Set& set, const float* images, int64_t groups, int64_t per_group, Pair size,
               int64_t c_in, Pair before, Pair step, const float* kernels, Pair kernel, int64_t c_out, bool turned,
               Pair stride, Pair out_size, float* out) {
  if (groups * per_group * out_size.h * out_size.w == 0) return;
  const int64_t pieces = Pieces(pool, groups * per_group, out_size.h);
  const int64_t channels = Ceil(c_out, set.lanes) * set.lanes, taps = kernel.h * kernel.w;
  const int64_t width = (out_size.w - 1) * stride.w + kernel.w;
  static std::atomic<int64_t> calls{0};
  const int64_t call = calls++;
  Parallel(pool, groups * per_group * pieces, [&](int64_t task) {
    const int64_t image = task / pieces, piece = task % pieces;
    const int64_t first = piece * out_size.h / pieces, last = (piece + 1) * out_size.h / pieces;
    const float* own = kernels + image / per_group * taps * c_in * c_out;
    const float* rows = turned ? Turn(own, taps, c_out, c_in, channels, call) : Align(own, taps * c_in, c_out, channels);
    float* padded = Scratch(0, ((last - 1 - first) * stride.h + kernel.h) * width * c_in);
    Pad(padded, images + image * size.h * size.w * c_in, size, c_in, before, step, first * stride.h,
        (last - 1) * stride.h + kernel.h, width);
    set.forward(padded, width, c_in, rows, kernel.h, kernel.w * c_in, channels, c_out, stride, first, last, out_size.w,
                out + image * out_size.h * out_size.w * c_out, c_out, false);
  });
}

ffi::Error ForwardHandler(ffi::ThreadPool pool, Array images, Array kernels, Result out, int64_t stride_h,
                          int64_t stride_w, int64_t top, int64_t left, int64_t lanes) {
  const auto x = images.dimensions(), k = kernels.dimensions(), y = out->dimensions();
  Correlate(pool, Choose(lanes), images.typed_data(), x[0], x[1], {x[2], x[3]}, x[4], {top, left}, {1, 1},
            kernels.typed_data(), {k[1], k[2]}, k[4], false, {stride_h, stride_w}, {y[2], y[3]}, out->typed_data());
  return ffi::Error::Success();
}

ffi::Error ImageGradientHandler(ffi::ThreadPool pool, Array cotangents, Array kernels, Result out, int64_t stride_h,
                                int64_t stride_w, int64_t top, int64_t left, int64_t lanes) {
  const auto g = cotangents.dimensions(), k = kernels.dimensions(), x = out->dimensions();
  Correlate(pool, Choose(lanes), cotangents.typed_data(), g[0], g[1], {g[2], g[3]}, g[4],
            {k[1] - 1 - top, k[2] - 1 - left}, {stride_h, stride_w}, kernels.typed_data(), {k[1], k[2]}, x[4], true,
            {1, 1}, {x[2], x[3]}, out->typed_data());
  return ffi::Error::Success();
}

ffi::Error KernelGradientHandler(ffi::ThreadPool pool, Array images, Array cotangents, Result out, int64_t stride_h,
                                 int64_t stride_w, int64_t top, int64_t left, int64_t lanes) {
  const auto x = images.dimensions(), g = cotangents.dimensions(), k = out->dimensions();
  const Set set = Choose(lanes);
  const int64_t rows = k[1] * k[2] * k[3], c_in = k[3], c_out = k[4], kernel_w = k[2];
  const int64_t pieces = Pieces(pool, x[0], Ceil(rows, 12)), channels = Ceil(c_out, set.lanes) * set.lanes;
  const int64_t height = (g[2] - 1) * stride_h + k[1], width = (g[3] - 1) * stride_w + k[2];
  if (x[1] == 0) std::memset(out->typed_data(), 0, out->size_bytes());
  Parallel(pool, x[0] * pieces, [&](int64_t task) {
    const int64_t group = task / pieces, piece = task % pieces;
    for (int64_t n = 0; n < x[1]; ++n) {
      const int64_t image = group * x[1] + n;
      float* padded = Scratch(0, height * width * c_in);
      Pad(padded, images.typed_data() + image * x[2] * x[3] * c_in, {x[2], x[3]}, c_in, {top, left}, {1, 1}, 0, height,
          width);
      const float* cotangent =
          Align(cotangents.typed_data() + image * g[2] * g[3] * c_out, g[2] * g[3], c_out, channels);
      set.kernel_gradient(padded, width, c_in, cotangent, channels, g[2], g[3], kernel_w, c_out, {stride_h, stride_w},
                          piece * rows / pieces, (piece + 1) * rows / pieces,
                          out->typed_data() + group * rows * c_out, n > 0);
    }
  });
  return ffi::Error::Success();
}

auto Binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Array>()
      .Arg<Array>()
      .Ret<Array>()
      .Attr<int64_t>("stride_h")
      .Attr<int64_t>("stride_w")
      .Attr<int64_t>("top")
      .Attr<int64_t>("left")
      .Attr<int64_t>("lanes");
}

#include "mixed.inc"

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_forward, ForwardHandler, Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_image_gradient, ImageGradientHandler, Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_kernel_gradient, KernelGradientHandler, Binding());

XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_mixed_forward, MixedForwardHandler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Weights>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<int64_t>("stride_h")
                                  .Attr<int64_t>("stride_w")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left")
                                  .Attr<int64_t>("step_h")
                                  .Attr<int64_t>("step_w")
                                  .Attr<int64_t>("lanes"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_turn, TurnHandler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(puppet_jax_mixed_gradient, MixedGradientHandler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Weights>()
                                  .Ret<Array>()
                                  .Attr<int64_t>("stride_h")
                                  .Attr<int64_t>("stride_w")
                                  .Attr<int64_t>("lanes"));
