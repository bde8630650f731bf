// Multi-step spiking neurons on the CPU: forward, and the gradient to the input current, which is recomputed from the
// current alone. Each line is the arithmetic of the eager equation in the same order; built without contraction to
// fused multiply-adds and without fast-math, so that no spike differs. See dynamics.py for the equations and
// derivative.py for the derivatives.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>

#ifdef _OPENMP
#include <omp.h>
static int thread() { return omp_get_thread_num(); }
#else
static int thread() { return 0; }
#endif

#ifdef __AVX__
#include <immintrin.h>
#endif

#ifdef SLEEF  // torch's own vector exponential: derivatives are then bit by bit those of torch
#if defined(__AVX512F__)
extern "C" __m512 Sleef_expf16_u10(__m512);
static void exponentials(float* x, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(x + i, Sleef_expf16_u10(_mm512_loadu_ps(x + i)));
    if (i < n) {
        const __mmask16 rest = (1u << (n - i)) - 1;
        _mm512_mask_storeu_ps(x + i, rest, Sleef_expf16_u10(_mm512_maskz_loadu_ps(rest, x + i)));
    }
}
#else
extern "C" __m256 Sleef_expf8_u10(__m256);
static void exponentials(float* x, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, Sleef_expf8_u10(_mm256_loadu_ps(x + i)));
    if (i < n) {
        float rest[8] = {0};
        std::copy(x + i, x + n, rest);
        _mm256_storeu_ps(rest, Sleef_expf8_u10(_mm256_loadu_ps(rest)));
        std::copy(rest, rest + (n - i), x + i);
    }
}
#endif
#else
static void exponentials(float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] = std::exp(x[i]);
}
#endif

enum Charge { DIVIDE, MULTIPLY, KEEP };
enum Reset { HARD, SOFT, NONE };
enum Pool { NO_POOL, MEAN_POOL, MAX_POOL };
enum Family {
    ATAN, SIGMOID, SIGMOID_TAILS, QUADRATIC, TRIANGLE, EXPONENTIAL, SOFT_SIGN, FAST_SIGMOID, GAUSSIAN, RECTANGLE,
    LEAKY_RECTANGLE, STEP, RECIPROCAL, LOG_TAILED, SIGMOID_RECIPROCAL
};

extern "C" struct Neuron {
    int32_t charge, decay_input, reset, detach_reset, family, pool;
    float rate, threshold, reset_value, start, a, b;  // a and b: the numbers of the derivative's family
};

// The current may be one step for all (static), have an affine map per channel in front (batch norm), and 2 x 2 pooling
// of the spikes behind; planes of height x width.
extern "C" struct Shape {
    int64_t steps, current_steps, planes, channels, height, width;
    int32_t threads, contracted;
};

namespace {

constexpr int64_t CHUNK = 1024, LANES = 16;

template <int CHARGE, bool DECAY>
inline float charge(float x, float v, float rate, float reset) {
    if (CHARGE == DIVIDE) return DECAY ? v + (x - (v - reset)) / rate : v - (v - reset) / rate + x;
    if (CHARGE == MULTIPLY) return DECAY ? v + (x - (v - reset)) * rate : v - (v - reset) * rate + x;
    return rate == 0.0f ? x : rate * v + x;  // complete leakage remembers not even an infinite membrane
}

template <int RESET>
inline float after(float h, float spike, float threshold, float reset) {
    if (RESET == HARD) return spike * reset + (1.0f - spike) * h;
    if (RESET == SOFT) return h - spike * threshold;
    return h;
}

// Membrane potentials h [steps, n] before reset; x holds the current, [n] if it is static, else [steps, n].
template <int CHARGE, bool DECAY, int RESET>
void charged(const Neuron& k, const float* x, bool fixed, float* h, float* v, int64_t steps, int64_t n) {
    std::fill(v, v + n, k.start);
    for (int64_t t = 0; t < steps; ++t) {
        const float* xt = fixed ? x : x + t * n;
        float* ht = h + t * n;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const float u = charge<CHARGE, DECAY>(xt[i], v[i], k.rate, k.reset_value);
            const float spike = u >= k.threshold ? 1.0f : 0.0f;
            ht[i] = u;
            v[i] = after<RESET>(u, spike, k.threshold, k.reset_value);
        }
    }
}

template <int CHARGE, bool DECAY>
void charged(const Neuron& k, const float* x, bool fixed, float* h, float* v, int64_t steps, int64_t n) {
    if (k.reset == HARD) charged<CHARGE, DECAY, HARD>(k, x, fixed, h, v, steps, n);
    else if (k.reset == SOFT) charged<CHARGE, DECAY, SOFT>(k, x, fixed, h, v, steps, n);
    else charged<CHARGE, DECAY, NONE>(k, x, fixed, h, v, steps, n);
}

void charged(const Neuron& k, const float* x, bool fixed, float* h, float* v, int64_t steps, int64_t n) {
    if (k.charge == KEEP) charged<KEEP, false>(k, x, fixed, h, v, steps, n);
    else if (k.charge == DIVIDE && k.decay_input) charged<DIVIDE, true>(k, x, fixed, h, v, steps, n);
    else if (k.charge == DIVIDE) charged<DIVIDE, false>(k, x, fixed, h, v, steps, n);
    else if (k.decay_input) charged<MULTIPLY, true>(k, x, fixed, h, v, steps, n);
    else charged<MULTIPLY, false>(k, x, fixed, h, v, steps, n);
}

// Derivatives d [n] of the spike at u = h - threshold.
void derivative(const Neuron& k, const float* h, float* d, int64_t n) {
    const float a = k.a, b = k.b, threshold = k.threshold;
    switch (k.family) {
        case ATAN: {
            const float half = b;
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float z = (h[i] - threshold) * a;
                d[i] = half / (1.0f + z * z);
            }
            return;
        }
        case SIGMOID: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = 0.0f - a * (h[i] - threshold);
            exponentials(d, n);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float s = 1.0f / (1.0f + d[i]);
                d[i] = (1.0f - s) * s * b;
            }
            return;
        }
        case SIGMOID_TAILS: {
            float other[CHUNK];
            for (int64_t from = 0; from < n; from += CHUNK) {
                const int64_t m = std::min(CHUNK, n - from);
                float* dd = d + from;
#pragma omp simd
                for (int64_t i = 0; i < m; ++i) {
                    dd[i] = 0.0f - a * (h[from + i] - threshold);
                    other[i] = 0.0f - (-a) * (h[from + i] - threshold);
                }
                exponentials(dd, m);
                exponentials(other, m);
#pragma omp simd
                for (int64_t i = 0; i < m; ++i)
                    dd[i] = b * (1.0f / (1.0f + dd[i])) * (1.0f / (1.0f + other[i]));
            }
            return;
        }
        case QUADRATIC: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float z = a - b * std::fabs(h[i] - threshold);
                d[i] = z < 0.0f ? 0.0f : z;  // this way round, what is no number stays so, as in torch
            }
            return;
        }
        case TRIANGLE: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float z = a - std::fabs(h[i] - threshold);
                d[i] = (z < 0.0f ? 0.0f : z) / b;
            }
            return;
        }
        case EXPONENTIAL: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = -a * std::fabs(h[i] - threshold);
            exponentials(d, n);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = b * d[i];
            return;
        }
        case SOFT_SIGN: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float z = a + std::fabs(h[i] - threshold);
                d[i] = 1.0f / (b * z * z);
            }
            return;
        }
        case FAST_SIGMOID: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float z = 1.0f + a * std::fabs(h[i] - threshold);
                d[i] = b / (z * z);
            }
            return;
        }
        case GAUSSIAN: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float z = a * (h[i] - threshold);
                d[i] = -(z * z);
            }
            exponentials(d, n);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = b * d[i];
            return;
        }
        case LEAKY_RECTANGLE: {
            const float inside = 1.0f / (2.0f * a);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = std::fabs(h[i] - threshold) < a ? inside : b;
            return;
        }
        case STEP: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = h[i] - threshold >= 0.0f ? b : a;
            return;
        }
        case RECIPROCAL: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = b / (a + std::fabs(h[i] - threshold));
            return;
        }
        case LOG_TAILED: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float u = h[i] - threshold, z = u < 1.0f ? 1.0f : u;
                d[i] = u <= 0.0f ? a : b / z;
            }
            return;
        }
        case SIGMOID_RECIPROCAL: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = 0.0f - a * (h[i] - threshold);
            exponentials(d, n);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float u = h[i] - threshold, s = 1.0f / (1.0f + d[i]);
                d[i] = u < 0.0f ? a * s * (1.0f - s) : b / (u + 1.0f);
            }
            return;
        }
        default: {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d[i] = std::fabs(h[i] - threshold) < a ? b : 0.0f;
        }
    }
}

// One step of the adjoint recursion: gradient at h from those of the spike (gs) and of the next membrane (carry).
template <int CHARGE, bool DECAY, int RESET, bool DETACH, bool FIXED>
void adjoint(const Neuron& k, const float* h, const float* d, const float* gs, float* carry, float* gx, int64_t n) {
    const float threshold = k.threshold, reset = k.reset_value, rate = k.rate;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        float through = 1.0f;
        if (RESET == HARD) {
            through = 1.0f - (h[i] >= threshold ? 1.0f : 0.0f);
            if (!DETACH) through = through + (reset - h[i]) * d[i];
        }
        if (RESET == SOFT && !DETACH) through = 1.0f - threshold * d[i];
        const float gh = gs[i] * d[i] + carry[i] * through;
        float to_x = gh;
        if (DECAY && CHARGE == DIVIDE) to_x = gh / rate;
        if (DECAY && CHARGE == MULTIPLY) to_x = gh * rate;
        gx[i] = FIXED ? gx[i] + to_x : to_x;
        if (CHARGE == DIVIDE) carry[i] = gh - gh / rate;
        if (CHARGE == MULTIPLY) carry[i] = gh - gh * rate;
        if (CHARGE == KEEP) carry[i] = rate * gh;
    }
}

using Adjoint = void (*)(const Neuron&, const float*, const float*, const float*, float*, float*, int64_t);

template <int CHARGE, bool DECAY, int RESET>
Adjoint adjoint_of(bool detach, bool fixed) {
    if (detach) return fixed ? adjoint<CHARGE, DECAY, RESET, true, true> : adjoint<CHARGE, DECAY, RESET, true, false>;
    return fixed ? adjoint<CHARGE, DECAY, RESET, false, true> : adjoint<CHARGE, DECAY, RESET, false, false>;
}

template <int CHARGE, bool DECAY>
Adjoint adjoint_of(const Neuron& k, bool fixed) {
    if (k.reset == HARD) return adjoint_of<CHARGE, DECAY, HARD>(k.detach_reset, fixed);
    if (k.reset == SOFT) return adjoint_of<CHARGE, DECAY, SOFT>(k.detach_reset, fixed);
    return adjoint_of<CHARGE, DECAY, NONE>(k.detach_reset, fixed);
}

Adjoint adjoint_of(const Neuron& k, bool fixed) {
    if (k.charge == KEEP) return adjoint_of<KEEP, false>(k, fixed);
    if (k.charge == DIVIDE) return k.decay_input ? adjoint_of<DIVIDE, true>(k, fixed) : adjoint_of<DIVIDE, false>(k, fixed);
    return k.decay_input ? adjoint_of<MULTIPLY, true>(k, fixed) : adjoint_of<MULTIPLY, false>(k, fixed);
}

// One step of n neurons: v becomes the membrane potential after reset.
template <int CHARGE, bool DECAY, int RESET>
void stepped(const Neuron& k, const float* x, float* v, float* spikes, int64_t n) {
    const float threshold = k.threshold, reset = k.reset_value, rate = k.rate;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const float u = charge<CHARGE, DECAY>(x[i], v[i], rate, reset);
        const float spike = u >= threshold ? 1.0f : 0.0f;
        v[i] = after<RESET>(u, spike, threshold, reset);
        spikes[i] = spike;
    }
}

using Step = void (*)(const Neuron&, const float*, float*, float*, int64_t);

template <int CHARGE, bool DECAY>
Step step_of(const Neuron& k) {
    if (k.reset == HARD) return stepped<CHARGE, DECAY, HARD>;
    if (k.reset == SOFT) return stepped<CHARGE, DECAY, SOFT>;
    return stepped<CHARGE, DECAY, NONE>;
}

Step step_of(const Neuron& k) {
    if (k.charge == KEEP) return step_of<KEEP, false>(k);
    if (k.charge == DIVIDE) return k.decay_input ? step_of<DIVIDE, true>(k) : step_of<DIVIDE, false>(k);
    return k.decay_input ? step_of<MULTIPLY, true>(k) : step_of<MULTIPLY, false>(k);
}

// 2 x 2 windows of spikes in rows x width; an odd last column or row is left out, as torch does. Sums of four spikes are
// exact in any order. `across` and `room` have space for rows x width and LANES more, which hold nothing of use: whole
// vectors are written, and what a row writes too much is overwritten by the next.
template <class Two>
void pooled(Two two, float factor, const float* spikes, float* across, float* room, float* out, int64_t rows,
            int64_t width) {
    const int64_t half = width / 2;
    const bool even = width % 2 == 0;  // all rows are then one long row
    for (int64_t r = 0; r < (even ? 1 : rows); ++r) {
        const float* line = spikes + r * width;
        float* to = across + r * half;
#pragma omp simd
        for (int64_t j = 0; j < (even ? rows * half : half); ++j) to[j] = two(line[2 * j], line[2 * j + 1]);
    }
    for (int64_t r = 0; r + 1 < rows; r += 2) {
        const float *top = across + r * half, *below = top + half;
        float* to = room + r / 2 * half;
        for (int64_t j = 0; j < half; j += LANES)
#pragma omp simd
            for (int64_t i = j; i < j + LANES; ++i) to[i] = two(top[i], below[i]) * factor;
    }
    std::copy(room, room + rows / 2 * half, out);
}

void pooled(const Neuron& k, const float* spikes, float* across, float* room, float* out, int64_t rows, int64_t width) {
    const auto sum = [](float a, float b) { return a + b; };
    const auto largest = [](float a, float b) { return a < b ? b : a; };
    if (k.pool == MEAN_POOL) pooled(sum, 0.25f, spikes, across, room, out, rows, width);
    else pooled(largest, 1.0f, spikes, across, room, out, rows, width);
}

// The gradient of each spike from that of its window; for the maximum, the first of the largest takes it all.
void unpooled(const Neuron& k, const float* h, const float* g, float* gs, int64_t rows, int64_t width) {
    const int64_t half = width / 2;
    std::fill(gs, gs + rows * width, 0.0f);
    for (int64_t r = 0; r + 1 < rows; r += 2) {
        const float* gr = g + (r / 2) * half;
        float *top = gs + r * width, *bottom = top + width;
        if (k.pool == MEAN_POOL) {
            for (int64_t j = 0; j < half; ++j)
                top[2 * j] = top[2 * j + 1] = bottom[2 * j] = bottom[2 * j + 1] = gr[j] * 0.25f;
        } else {
            const float *s = h + r * width, *below = s + width;
            for (int64_t j = 0; j < half; ++j) {
                const bool fired[4] = {s[2 * j] >= k.threshold, s[2 * j + 1] >= k.threshold,
                                       below[2 * j] >= k.threshold, below[2 * j + 1] >= k.threshold};
                int first = 0;
                for (int w = 3; w >= 0; --w)
                    if (fired[w]) first = w;
                (first < 2 ? top : bottom)[2 * j + (first & 1)] = gr[j];
            }
        }
    }
}

struct Plan {
    int64_t plane, rows, chunks, pooled_plane;
    explicit Plan(const Neuron& k, const Shape& s) {
        plane = s.height * s.width;
        const bool pool = k.pool != NO_POOL;
        // With pooling a chunk is a number of whole row pairs; else a plane is one long row, cut anywhere.
        const int64_t unit = pool ? 2 * s.width : 1;
        rows = std::max<int64_t>(1, CHUNK / unit) * unit;
        rows = std::min(rows, plane);
        chunks = (plane + rows - 1) / rows;
        pooled_plane = pool ? (s.height / 2) * (s.width / 2) : plane;
    }
};

inline float at(float number, int64_t) { return number; }
inline float at(const float* numbers, int64_t i) { return numbers[i]; }

// x = current * scale + shift for [n], with a number of each for all or for every one, rounded as torch's batch norm.
template <class Numbers>
void normalised(bool contracted, const float* current, Numbers scale, Numbers shift, int64_t n, float* x) {
    if (contracted) {  // where it was built with fused multiply-adds
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) x[i] = std::fma(current[i], at(scale, i), at(shift, i));
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) x[i] = current[i] * at(scale, i) + at(shift, i);
    }
}

// The current of one chunk at one step, [n], with the affine map of its channel.
void load(const Shape& s, const float* current, const float* scale, const float* shift, int64_t t, int64_t plane,
          int64_t size, int64_t from, int64_t n, float* x) {
    const int64_t channel = plane % s.channels;
    const float* c = current + (t * s.planes + plane) * size + from;
    if (scale == nullptr) std::copy(c, c + n, x);
    else normalised(s.contracted, c, scale[channel], shift[channel], n, x);
}

// The same neuron, where it divides by a power of two, with a product by its reciprocal: no result is rounded otherwise.
Neuron without_division(Neuron k) {
    int exponent = 0;
    if (k.charge == DIVIDE && std::frexp(k.rate, &exponent) == 0.5f && std::abs(exponent) < 100) {
        k.charge = MULTIPLY;
        k.rate = 1.0f / k.rate;
    }
    return k;
}

}  // namespace

// Both return 0, or 1 where there is no memory for what they keep on the way.
extern "C" int forward(const Neuron* neuron, const Shape* shape, const float* current, const float* scale,
                        const float* shift, float* out) {
    const Neuron k = without_division(*neuron);
    const Shape& s = *shape;
    const Plan plan(k, s);
    const bool fixed = s.current_steps < s.steps;
    const Step step = step_of(k);
    // Several planes at once where they are small; all that a thread works on stays in the first cache.
    const int64_t together = plan.chunks > 1 ? 1 : std::max<int64_t>(1, CHUNK / plan.plane);
    const int64_t each = together * plan.rows + 2 * LANES, groups = (s.planes + together - 1) / together;
    const std::unique_ptr<float[]> room(new (std::nothrow) float[5 * each * s.threads]());
    if (!room) return 1;
#pragma omp parallel num_threads(s.threads)
    {
        float* x = room.get() + 5 * each * thread();
        float *v = x + each, *spikes = v + each, *across = spikes + each, *windows = across + each;
#pragma omp for schedule(static)
        for (int64_t job = 0; job < groups * plan.chunks; ++job) {
            const int64_t plane = job / plan.chunks * together, from = job % plan.chunks * plan.rows;
            const int64_t part = std::min(plan.rows, plan.plane - from), count = std::min(together, s.planes - plane);
            std::fill(v, v + count * part, k.start);
            for (int64_t t = 0; t < s.steps; ++t) {
                for (int64_t p = 0; p < count && (t == 0 || !fixed); ++p)
                    load(s, current, scale, shift, t, plane + p, plan.plane, from, part, x + p * part);
                float* o = out + (t * s.planes + plane) * plan.pooled_plane;
                if (k.pool == NO_POOL) {
                    step(k, x, v, o + from, count * part);
                    continue;
                }
                step(k, x, v, spikes, count * part);
                o += from / (2 * s.width) * (s.width / 2);
                const int64_t blocks = s.height % 2 == 0 ? 1 : count, size = count * part / blocks;
                for (int64_t p = 0; p < blocks; ++p)
                    pooled(k, spikes + p * size, across, windows, o + p * plan.pooled_plane, size / s.width, s.width);
            }
        }
    }
    return 0;
}

extern "C" int backward(const Neuron* neuron, const Shape* shape, const float* current, const float* scale,
                         const float* shift, const float* gradient, float* to_current) {
    const Neuron k = without_division(*neuron);
    const Shape& s = *shape;
    const Plan plan(k, s);
    const bool fixed = s.current_steps < s.steps;
    const Adjoint adjoint = adjoint_of(k, fixed);
    const int64_t own = (s.current_steps + s.steps + 4) * plan.rows;
    const std::unique_ptr<float[]> room(new (std::nothrow) float[own * s.threads]);
    if (!room) return 1;
#pragma omp parallel num_threads(s.threads)
    {
        float* x = room.get() + own * thread();
        float *h = x + s.current_steps * plan.rows, *v = h + s.steps * plan.rows;
        float *d = v + plan.rows, *gs = d + plan.rows, *gx = gs + plan.rows;
#pragma omp for schedule(static)
        for (int64_t job = 0; job < s.planes * plan.chunks; ++job) {
            const int64_t plane = job / plan.chunks, from = job % plan.chunks * plan.rows;
            const int64_t n = std::min(plan.rows, plan.plane - from);
            for (int64_t t = 0; t < s.current_steps; ++t)
                load(s, current, scale, shift, t, plane, plan.plane, from, n, x + t * n);
            charged(k, x, fixed, h, v, s.steps, n);
            float* carry = v;
            std::fill(carry, carry + n, 0.0f);
            std::fill(gx, gx + n, 0.0f);
            const float factor = scale == nullptr ? 1.0f : scale[plane % s.channels];
            for (int64_t t = s.steps - 1; t >= 0; --t) {
                const float* ht = h + t * n;
                const float* g = gradient + (t * s.planes + plane) * plan.pooled_plane;
                if (k.pool != NO_POOL) {
                    unpooled(k, ht, g + from / (2 * s.width) * (s.width / 2), gs, n / s.width, s.width);
                    g = gs;
                } else {
                    g += from;
                }
                derivative(k, ht, d, n);
                adjoint(k, ht, d, g, carry, gx, n);
                if (fixed && t > 0) continue;
                float* to = to_current + ((fixed ? 0 : t) * s.planes + plane) * plan.plane + from;
#pragma omp simd
                for (int64_t i = 0; i < n; ++i) to[i] = gx[i] * factor;
            }
        }
    }
    return 0;
}

#include "convolved.hpp"
#include "event_driven.hpp"
