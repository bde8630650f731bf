// Spike times of current-based LIF neurons, and their gradients; see event_driven.py for the equations (tau = 2 ts).
//
// Input spikes of a sample come in order of time; all outputs of a sample are brought forward together by each of them,
// so that the inner loop is one over outputs, and nothing of the size samples x inputs x outputs is stored. Results do
// not depend on the number of threads: each sample is one thread's, and weight gradients are summed over a fixed number
// of groups of samples.
#pragma once

extern "C" struct EventLayer {
    int64_t samples, inputs, outputs, sources, spikes;  // inputs: the most of a sample; sources: input neurons
    double reset, tau, grazing;
    int32_t threads;
};

namespace event_driven {

constexpr int64_t BLOCK = 64, GROUPS = 8;

template <class T>
struct Spikes {
    T* times;         // [N, M, K], infinite where there is none
    T* slopes;        // [N, M, K], u'(t)
    int32_t* places;  // [N, M, K], the input spike that each one follows
};

template <class T>
void sample_forward(const EventLayer& s, int64_t n, const T* fast, const T* slow, const T* following,
                    const int64_t* source, const int64_t* counts, const T* weight, const Spikes<T>& out, T* room) {
    const int64_t outputs = s.outputs, spikes = s.spikes, padded = (outputs + BLOCK - 1) / BLOCK * BLOCK;
    const T infinity = std::numeric_limits<T>::infinity(), epsilon = std::numeric_limits<T>::epsilon();
    T *a = room, *b = a + padded, *c = b + padded, *last = c + padded;  // last: e^(t / tau) of the last own spike
    T* fired = last + padded;
    std::fill(a, b + padded, T(0));
    std::fill(c, c + padded, T(s.reset));
    std::fill(last, fired + padded, T(0));
    int64_t left = outputs;
    for (int64_t j = 0; j < counts[n] && left; ++j) {
        const T *w = weight + source[n * s.inputs + j] * outputs, es = fast[n * s.inputs + j];
        const T em = slow[n * s.inputs + j], end = following[n * s.inputs + j];  // e^(t / tau) of the next one
        const T begin = em * (1 - 4 * epsilon), at_end = 1 / end, square = at_end * at_end;
        for (int64_t first = 0; first < outputs; first += BLOCK) {
            const int64_t size = std::min(BLOCK, outputs - first);
            T *ak = a + first, *bk = b + first, *ck = c + first;
            const T* wk = w + first;
            int32_t candidate[BLOCK];
            int32_t any = 0;
            for (int64_t m = 0; m < size; ++m) {
                const T x = ak[m] + wk[m] * es, y = bk[m] + wk[m] * em;
                ak[m] = x;
                bk[m] = y;
                // A crossing from below: the peak is above the threshold and comes after the begin of the interval,
                // and either within it, or the potential at its end is above.
                const bool peak = (x > 0) & (y > 0) & (y * y >= 4 * ck[m] * x) & (2 * x > begin * y);
                const bool within = (2 * x <= end * y) | (y * at_end - x * square >= ck[m] * (1 - 16 * epsilon));
                candidate[m] = peak & within;
                any |= candidate[m];
            }
            if (!any) continue;
            for (int64_t m = 0; m < size; ++m) {
                while (candidate[m]) {
                    const T square_root = bk[m] * bk[m] - 4 * ak[m] * ck[m];
                    if (!(square_root >= 0)) break;
                    const T root = std::sqrt(square_root), ratio = 2 * ak[m] / (bk[m] + root);
                    const int64_t o = first + m;
                    if (!(ratio > begin && ratio <= end && ratio > last[o])) break;
                    const int64_t k = int64_t(fired[o]), place = (n * outputs + o) * spikes + k;
                    out.times[place] = T(s.tau) * std::log(ratio);
                    out.slopes[place] = root / ratio;
                    out.places[place] = int32_t(j);
                    last[o] = ratio;
                    bk[m] -= T(s.reset) * ratio;
                    fired[o] = T(k + 1);
                    if (k + 1 == spikes) {
                        ck[m] = infinity;  // never again
                        --left;
                        break;
                    }
                }
            }
        }
    }
}

template <class T>
int forward(const EventLayer& s, const T* fast, const T* slow, const T* following, const int64_t* source,
            const int64_t* counts, const T* weight, T* times, T* slopes, int32_t* places) {
    const int64_t padded = (s.outputs + BLOCK - 1) / BLOCK * BLOCK, each = 5 * padded;
    const std::unique_ptr<T[]> room(new (std::nothrow) T[each * s.threads]);
    if (!room) return 1;
    const Spikes<T> out{times, slopes, places};
#pragma omp parallel for schedule(dynamic) num_threads(s.threads)
    for (int64_t n = 0; n < s.samples; ++n)
        sample_forward(s, n, fast, slow, following, source, counts, weight, out, room.get() + thread() * each);
    return 0;
}

// With G_k the whole derivative of the loss with respect to t_k, later own spikes included, and z = e^(-t/tau):
//   G_k = g_k + (theta/tau) e^(t_k/tau) sum over later l of G_l z_l / u'_l,
//   dL/dw_j = sum over k of -(G_k/u'_k) tau (z_k e^(t_j/tau) - z_k^2 e^(t_j/ts)), over those k that follow input j.
template <class T>
void sample_backward(const EventLayer& s, int64_t n, const T* fast, const T* slow, const int64_t* source,
                     const T* weight, const Spikes<T>& found, const T* gradient, T* to_times, T* to_weight, T* room,
                     int32_t* next) {
    const int64_t outputs = s.outputs, spikes = s.spikes;
    T *of_slow = room, *of_fast = room + outputs;                    // sums over the spikes after input j
    T *to_slow = room + 2 * outputs, *to_fast = to_slow + outputs * spikes;  // what each spike adds to them
    std::fill(of_slow, of_slow + 2 * outputs, T(0));
    const T least = T(s.grazing * s.reset);
    int64_t start = -1;
    for (int64_t o = 0; o < outputs; ++o) {
        const int64_t base = (n * outputs + o) * spikes;
        int64_t k = 0;
        while (k < spikes && found.places[base + k] >= 0) ++k;
        next[o] = int32_t(k - 1);
        if (k) start = std::max<int64_t>(start, found.places[base + k - 1]);
        T later = 0;
        while (k-- > 0) {
            const T z = std::exp(-found.times[base + k] / T(s.tau));
            const T whole = gradient[base + k] + T(s.reset) / z * later;
            const T each = whole / std::max(found.slopes[base + k], least);
            later += each * z;
            to_slow[o * spikes + k] = -each * T(s.tau) * z;
            to_fast[o * spikes + k] = each * T(s.tau) * z * z;
        }
    }
    for (int64_t j = start; j >= 0; --j) {
        for (int64_t o = 0; o < outputs; ++o)
            while (next[o] >= 0 && found.places[(n * outputs + o) * spikes + next[o]] == j) {
                of_slow[o] += to_slow[o * spikes + next[o]];
                of_fast[o] += to_fast[o * spikes + next[o]];
                --next[o];
            }
        const int64_t row = source[n * s.inputs + j] * outputs;
        const T es = fast[n * s.inputs + j], em = slow[n * s.inputs + j];
        const T *w = weight + row, per_slow = em / T(s.tau), per_fast = 2 * es / T(s.tau);
        T* g = to_weight + row;
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t o = 0; o < outputs; ++o) {
            g[o] += of_slow[o] * em + of_fast[o] * es;
            sum += w[o] * (of_slow[o] * per_slow + of_fast[o] * per_fast);
        }
        to_times[n * s.inputs + j] = sum;
    }
}

// to_times [N, L] and to_weight [GROUPS, sources, M] are zero; the groups are summed by the caller.
template <class T>
int backward(const EventLayer& s, const T* fast, const T* slow, const int64_t* source, const T* weight, T* times,
             T* slopes, int32_t* places, const T* gradient, T* to_times, T* to_weight) {
    const int64_t each = 2 * s.outputs * (1 + s.spikes);
    const std::unique_ptr<T[]> room(new (std::nothrow) T[each * s.threads]);
    const std::unique_ptr<int32_t[]> next(new (std::nothrow) int32_t[s.outputs * s.threads]);
    if (!room || !next) return 1;
    const Spikes<T> found{times, slopes, places};
#pragma omp parallel for schedule(dynamic) num_threads(s.threads)
    for (int64_t group = 0; group < GROUPS; ++group)
        for (int64_t n = group; n < s.samples; n += GROUPS)
            sample_backward(s, n, fast, slow, source, weight, found, gradient, to_times,
                            to_weight + group * s.sources * s.outputs, room.get() + thread() * each,
                            next.get() + thread() * s.outputs);
    return 0;
}

}  // namespace event_driven

#define EVENT_DRIVEN(T, NAME)                                                                                         \
    extern "C" int events_forward_##NAME(const EventLayer* layer, const T* fast, const T* slow, const T* following,   \
                                         const int64_t* source, const int64_t* counts, const T* weight, T* times,     \
                                         T* slopes, int32_t* places) {                                                \
        return event_driven::forward<T>(*layer, fast, slow, following, source, counts, weight, times, slopes,         \
                                        places);                                                                      \
    }                                                                                                                 \
    extern "C" int events_backward_##NAME(const EventLayer* layer, const T* fast, const T* slow,                      \
                                          const int64_t* source, const T* weight, T* times, T* slopes,                \
                                          int32_t* places, const T* gradient, T* to_times, T* to_weight) {            \
        return event_driven::backward<T>(*layer, fast, slow, source, weight, times, slopes, places, gradient,         \
                                         to_times, to_weight);                                                        \
    }

EVENT_DRIVEN(float, float)
EVENT_DRIVEN(double, double)
