// One decoding step through all layers of a GPT, on a CPU, in one call.
//
// Decoding a token reads every weight and the whole cache once and computes little, so it should
// run as fast as memory delivers. Called operation by operation it does not: threads wait for
// each other and for the interpreter some four hundred times a token. Here one team of threads
// goes through the layers together, and waits for work to be done, never for a thread to arrive,
// which another program may have put to sleep.
//
// Weights are stored as float32, bfloat16 or int8, keys and values as float32 or bfloat16; all
// arithmetic is float32. A sample's numbers are added up in the same order whatever samples are
// beside it. cpu_step.py declares the structures and calls.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

using v8 = float __attribute__((vector_size(32)));
using v4 = float __attribute__((vector_size(16)));
using v8i = int32_t __attribute__((vector_size(32)));
using bf16x8 = uint16_t __attribute__((vector_size(16)));
using u32x8 = uint32_t __attribute__((vector_size(32)));
using i8x8 = int8_t __attribute__((vector_size(8)));

struct bf16 {
    uint16_t bits;
};

// ---- numbers -------------------------------------------------------------------------------

template <class To, class From>
inline To cast_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

template <class V>
inline V read(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof(value));
    return value;
}

inline float widen(float x) { return x; }
inline float widen(int8_t x) { return x; }
inline float widen(bf16 x) { return cast_bits<float>(uint32_t(x.bits) << 16); }

inline v8 load8(const float* from) { return read<v8>(from); }

#ifdef __AVX2__  // compilers widen these element by element
inline v8 load8(const int8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(read<int64_t>(from))));
}
inline v8 load8(const bf16* from) {
    const __m256i bits = _mm256_cvtepu16_epi32(read<__m128i>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
#else
inline v8 load8(const int8_t* from) { return __builtin_convertvector(read<i8x8>(from), v8); }
inline v8 load8(const bf16* from) {
    return cast_bits<v8>(__builtin_convertvector(read<bf16x8>(from), u32x8) << 16);
}
#endif

inline void store(float* to, float x) { *to = x; }
inline void store(bf16* to, float x) {  // to the nearest, ties to even
    const uint32_t bits = cast_bits<uint32_t>(x);
    to->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline v8 splat(float x) { return v8{} + x; }

inline float sum8(v8 x) {
    v4 halves[2];
    std::memcpy(halves, &x, sizeof(x));
    const v4 sums = halves[0] + halves[1];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

// exp(x) = 2^n exp(r) with |r| <= ln(2) / 2, and exp(r) by its series.
inline v8 exp8(v8 x) {
    x = x < -87.0f ? splat(-87.0f) : x;
    x = x > 88.0f ? splat(88.0f) : x;
    const v8 to_integer = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const v8 n = (x * 1.44269504f + to_integer) - to_integer;
    const v8 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    v8 series = splat(1.0f / 5040);
    for (const float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        series = series * r + factor;
    return series * cast_bits<v8>((__builtin_convertvector(n, v8i) + 127) << 23);
}

// x * normal_cdf(x); the error function after Abramowitz and Stegun 7.1.26 (within 1.5e-7).
inline v8 gelu8(v8 x) {
    const v8 z = x * 0.70710678f;
    const v8 size = z < 0.0f ? -z : z;
    const v8 t = 1.0f / (1.0f + 0.3275911f * size);
    v8 series = splat(1.061405429f);
    for (const float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
        series = series * t + factor;
    const v8 tail = series * t * exp8(-size * size);  // 1 - erf(size)
    return 0.5f * x * (z < 0.0f ? tail : 2.0f - tail);
}

template <class F>
inline void apply8(float* x, int n, F f) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        const v8 y = f(load8(x + i));
        std::memcpy(x + i, &y, sizeof(y));
    }
    if (i == n) return;
    float rest[8] = {};
    std::copy(x + i, x + n, rest);
    const v8 y = f(load8(rest));
    for (int j = 0; i + j < n; ++j) x[i + j] = y[j];
}

// ---- threads -------------------------------------------------------------------------------

constexpr int SPINS = 2000;  // looks at a stage's end before the core is offered to others

// Work that a team does together before any of its threads goes on.
struct alignas(64) Stage {
    std::atomic<int> next{0}, done{0};
};

// One thread's view of the stages, which all threads pass in the same order.
class Worker {
public:
    explicit Worker(std::vector<Stage>& stages) : stage_(stages.data()) {}

    // Do some of the tasks 0 .. n_tasks - 1, and return when all are done.
    template <class F>
    void share(int n_tasks, F task) {
        Stage& stage = *stage_++;
        int i;
        while ((i = stage.next.fetch_add(1, std::memory_order_relaxed)) < n_tasks) {
            task(i);
            stage.done.fetch_add(1, std::memory_order_release);
        }
        for (int spins = 0; stage.done.load(std::memory_order_acquire) < n_tasks; ++spins)
            if (spins >= SPINS) std::this_thread::yield();
    }

private:
    Stage* stage_;
};

// ---- layers --------------------------------------------------------------------------------

struct Matrix {
    const void* weight;  // (out, in), row by row
    const float* scale;  // (out,) for int8, else null
    const float* bias;   // (out,) or null
};

constexpr int COLUMNS = 32;  // of a product, computed by one thread at a time

struct Norm {
    const float* weight;
    const float* bias;
    float eps;
};

struct Layer {
    Norm ln1, ln2;
    Matrix qkv, proj, widen, narrow;
};

// Rows m .. m + M - 1 of x (n_rows, n_in) times two rows of the weight.
template <int M, class W>
inline void dot_rows(const W* w0, const W* w1, const float* x, int n_in, float out[2][M]) {
    v8 sums[2][M];
    for (int m = 0; m < M; ++m) sums[0][m] = sums[1][m] = v8{};
    int k = 0;
    for (; k + 8 <= n_in; k += 8) {
        const v8 a = load8(w0 + k), b = load8(w1 + k);
        __builtin_prefetch(w1 + n_in + k);
        __builtin_prefetch(w1 + 2 * n_in + k);
        for (int m = 0; m < M; ++m) {
            const v8 row = load8(x + m * n_in + k);
            sums[0][m] += a * row;
            sums[1][m] += b * row;
        }
    }
    for (int m = 0; m < M; ++m) {
        out[0][m] = sum8(sums[0][m]);
        out[1][m] = sum8(sums[1][m]);
        for (int i = k; i < n_in; ++i) {
            out[0][m] += widen(w0[i]) * x[m * n_in + i];
            out[1][m] += widen(w1[i]) * x[m * n_in + i];
        }
    }
}

template <class W, int M, class Emit>
inline void multiply_rows(
    const Matrix& matrix, int n, bool two, const float* x, int first, int n_in, Emit emit) {
    const W* w0 = static_cast<const W*>(matrix.weight) + int64_t(n) * n_in;
    float out[2][M];
    dot_rows<M, W>(w0, two ? w0 + n_in : w0, x + int64_t(first) * n_in, n_in, out);
    for (int i = 0; i < 1 + two; ++i) {
        const float scale = matrix.scale ? matrix.scale[n + i] : 1.0f;
        const float bias = matrix.bias ? matrix.bias[n + i] : 0.0f;
        for (int m = 0; m < M; ++m) emit(first + m, n + i, out[i][m] * scale + bias);
    }
}

// emit(row, column, value) for x (n_rows, n_in) times the matrix (n_out, n_in).
template <class W, class Emit>
void multiply(Worker& worker, const Matrix& matrix, const float* x, int n_rows, int n_in,
              int n_out, Emit emit) {
    worker.share((n_out + COLUMNS - 1) / COLUMNS, [=, &matrix](int task) {
        const int end = std::min(n_out, (task + 1) * COLUMNS);
        for (int n = task * COLUMNS; n < end; n += 2) {
            const bool two = n + 1 < end;
            int m = 0;
            for (; m + 4 <= n_rows; m += 4) multiply_rows<W, 4>(matrix, n, two, x, m, n_in, emit);
            switch (n_rows - m) {
                case 3: multiply_rows<W, 3>(matrix, n, two, x, m, n_in, emit); break;
                case 2: multiply_rows<W, 2>(matrix, n, two, x, m, n_in, emit); break;
                case 1: multiply_rows<W, 1>(matrix, n, two, x, m, n_in, emit); break;
            }
        }
    });
}

void normalize(Worker& worker, const Norm& norm, const float* x, int n_rows, int width,
               float* out) {
    worker.share(n_rows, [=, &norm](int m) {
        const float* row = x + int64_t(m) * width;
        double sum = 0.0, squares = 0.0;
        for (int i = 0; i < width; ++i) sum += row[i];
        const float mean = float(sum / width);
        for (int i = 0; i < width; ++i) squares += double(row[i] - mean) * (row[i] - mean);
        const float scale = float(1.0 / std::sqrt(squares / width + norm.eps));
        for (int i = 0; i < width; ++i)
            out[int64_t(m) * width + i] = (row[i] - mean) * scale * norm.weight[i] + norm.bias[i];
    });
}

// Scores of a head's query with slots s .. s + N - 1, each key n wide.
template <int N, class C>
inline void score(const float* query, const C* keys, int n, float scale, float* scores) {
    v8 sums[N];
    for (v8& sum : sums) sum = v8{};
    int d = 0;
    for (; d + 8 <= n; d += 8) {
        const v8 q = load8(query + d);
        for (int s = 0; s < N; ++s) {
            sums[s] += q * load8(keys + s * n + d);
            __builtin_prefetch(keys + (s + 8) * n + d);
        }
    }
    for (int s = 0; s < N; ++s) {
        scores[s] = sum8(sums[s]);
        for (int i = d; i < n; ++i) scores[s] += query[i] * widen(keys[s * n + i]);
        scores[s] *= scale;
    }
}

// N * 8 columns of the sum of values weighted by the slots' shares.
template <int N, class C>
inline void mix(const float* shares, const C* values, int n_slots, int n, float* out) {
    v8 sums[N];
    for (v8& sum : sums) sum = v8{};
    for (int s = 0; s < n_slots; ++s)
        for (int j = 0; j < N; ++j) {
            sums[j] += shares[s] * load8(values + int64_t(s) * n + j * 8);
            __builtin_prefetch(values + int64_t(s + 8) * n + j * 8);
        }
    std::memcpy(out, sums, sizeof(sums));
}

template <class C>
void attend(
    const float* query, const C* keys, const C* values, int n_slots, int n, const uint8_t* visible,
    float* scores, float* out) {
    const float scale = 1.0f / std::sqrt(float(n));
    int s = 0;
    for (; s + 4 <= n_slots; s += 4)
        score<4>(query, keys + int64_t(s) * n, n, scale, scores + s);
    for (; s < n_slots; ++s) score<1>(query, keys + int64_t(s) * n, n, scale, scores + s);
    if (visible)
        for (s = 0; s < n_slots; ++s)
            if (!visible[s]) scores[s] = -INFINITY;
    const float largest = *std::max_element(scores, scores + n_slots);
    // Of what is invisible exp8's smallest value is left, 1e-38: less than any sum can hold.
    apply8(scores, n_slots, [=](v8 x) { return exp8(x - largest); });
    float total = 0.0f;
    for (s = 0; s < n_slots; ++s) total += scores[s];
    for (s = 0; s < n_slots; ++s) scores[s] /= total;
    int d = 0;
    for (; d + 64 <= n; d += 64) mix<8>(scores, values + d, n_slots, n, out + d);
    for (; d + 8 <= n; d += 8) mix<1>(scores, values + d, n_slots, n, out + d);
    for (; d < n; ++d) {
        out[d] = 0.0f;
        for (s = 0; s < n_slots; ++s) out[d] += scores[s] * widen(values[int64_t(s) * n + d]);
    }
}

}  // namespace

extern "C" {

struct Network {
    int32_t n_layer, n_head, width, weight_type, cache_type, n_threads;
    const Layer* layers;
    Norm ln_f;
};

struct Step {
    int32_t n_rows;      // samples
    int32_t slot;        // where the new token's key and value go
    int32_t max_length;  // slots of the cache
    void* keys;          // (n_layer, n_rows, n_head, max_length, head_dim)
    void* values;
    const uint8_t* visible;  // (slot + 1,) or null: all are
    float* x;                // (n_rows, width) embeddings
    float* hidden;           // (n_rows, width) after the last norm
    float* scratch;          // (n_rows, 9 width) and n_threads times max_length
};

}  // extern "C"

namespace {

constexpr int STAGES_PER_LAYER = 8;

template <class W, class C>
void take_step(const Network& net, const Step& step) {
    const int width = net.width, n_rows = step.n_rows, head_dim = width / net.n_head;
    const int n_slots = step.slot + 1;
    float* const normed = step.scratch;
    float* const qkv = normed + int64_t(n_rows) * width;
    float* const mixed = qkv + int64_t(n_rows) * 3 * width;
    float* const wide = mixed + int64_t(n_rows) * width;
    float* const all_scores = wide + int64_t(n_rows) * 4 * width;
    float* const x = step.x;
    const auto add_to_x = [=](int m, int n, float y) { x[int64_t(m) * width + n] += y; };

    std::vector<Stage> stages(STAGES_PER_LAYER * net.n_layer + 1);
    std::atomic<int> n_workers{0};
#pragma omp parallel num_threads(net.n_threads)
    {
        Worker worker(stages);
        float* const scores = all_scores + int64_t(n_workers++) * step.max_length;
        for (int l = 0; l < net.n_layer; ++l) {
            const Layer& layer = net.layers[l];
            normalize(worker, layer.ln1, x, n_rows, width, normed);
            multiply<W>(worker, layer.qkv, normed, n_rows, width, 3 * width,
                        [=](int m, int n, float y) { qkv[int64_t(m) * 3 * width + n] = y; });
            worker.share(n_rows * net.n_head, [&](int head) {
                const int64_t row = head / net.n_head, in_row = head % net.n_head * head_dim;
                const float* query = qkv + row * 3 * width + in_row;
                const int64_t before = (int64_t(l) * n_rows * net.n_head + head) *
                                       step.max_length * head_dim;
                C* keys = static_cast<C*>(step.keys) + before;
                C* values = static_cast<C*>(step.values) + before;
                for (int d = 0; d < head_dim; ++d) {
                    store(keys + int64_t(step.slot) * head_dim + d, query[width + d]);
                    store(values + int64_t(step.slot) * head_dim + d, query[2 * width + d]);
                }
                attend(query, keys, values, n_slots, head_dim, step.visible, scores,
                       mixed + row * width + in_row);
            });
            multiply<W>(worker, layer.proj, mixed, n_rows, width, width, add_to_x);
            normalize(worker, layer.ln2, x, n_rows, width, normed);
            multiply<W>(worker, layer.widen, normed, n_rows, width, 4 * width,
                        [=](int m, int n, float y) { wide[int64_t(m) * 4 * width + n] = y; });
            worker.share(4 * n_rows,
                         [=](int m) { apply8(wide + int64_t(m) * width, width, gelu8); });
            multiply<W>(worker, layer.narrow, wide, n_rows, 4 * width, width, add_to_x);
        }
        normalize(worker, net.ln_f, x, n_rows, width, step.hidden);
    }
}

template <class W>
void take_step(const Network& net, const Step& step) {
    if (net.cache_type == 0) take_step<W, float>(net, step);
    else take_step<W, bf16>(net, step);
}

template <class W>
void project(const Matrix& matrix, const float* x, int n_rows, int n_in, int n_out, float* y,
             int n_threads) {
    std::vector<Stage> stages(1);
#pragma omp parallel num_threads(n_threads)
    {
        Worker worker(stages);
        multiply<W>(worker, matrix, x, n_rows, n_in, n_out,
                    [=](int m, int n, float value) { y[int64_t(m) * n_out + n] = value; });
    }
}

}  // namespace

extern "C" {

// Grows with every change of a structure or a call, so that an old build is not used.
int32_t tats_version() { return 1; }

void tats_step(const Network* net, const Step* step) {
    if (net->weight_type == 0) take_step<float>(*net, *step);
    else if (net->weight_type == 1) take_step<bf16>(*net, *step);
    else take_step<int8_t>(*net, *step);
}

void tats_project(const Matrix* matrix, int32_t weight_type, const float* x, int32_t n_rows,
                  int32_t n_in, int32_t n_out, float* y, int32_t n_threads) {
    if (weight_type == 0) project<float>(*matrix, x, n_rows, n_in, n_out, y, n_threads);
    else if (weight_type == 1) project<bf16>(*matrix, x, n_rows, n_in, n_out, y, n_threads);
    else project<int8_t>(*matrix, x, n_rows, n_in, n_out, y, n_threads);
}

}  // extern "C"
