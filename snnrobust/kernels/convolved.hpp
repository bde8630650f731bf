// A convolution, the affine map, the node and the pooling behind it as one, on the CPU, forward only. A sum of products
// is rounded as in oneDNN's kernels, one fused multiply-add after the other over rows, columns and channels of the
// window: an input of zero adds nothing to it, and is left out. Of spikes, most are. Channels come last, [H, W, C].
// Part of native.cpp.

extern "C" struct Convolution {
    int64_t steps, current_steps, samples, channels, height, width, out_channels;
    int32_t threads, contracted, channels_last;  // of the output
};

namespace {

constexpr int64_t BLOCK = 8;  // output channels are filled up to a multiple of it
constexpr int SIDE = 3, TAPS = SIDE * SIDE;

#if defined(__AVX__) && defined(__FMA__)
using Vector = __m256;
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector x) { _mm256_storeu_ps(to, x); }
inline Vector all(float x) { return _mm256_set1_ps(x); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#else
struct Vector {
    float x[BLOCK];
};
inline Vector load(const float* from) {
    Vector v;
    std::copy(from, from + BLOCK, v.x);
    return v;
}
inline void store(float* to, const Vector& v) { std::copy(v.x, v.x + BLOCK, to); }
inline Vector all(float x) {
    Vector v;
    std::fill(v.x, v.x + BLOCK, x);
    return v;
}
inline Vector fma(const Vector& a, const Vector& b, Vector c) {
    for (int64_t i = 0; i < BLOCK; ++i) c.x[i] = std::fma(a.x[i], b.x[i], c.x[i]);
    return c;
}
#endif

// Room that begins at a cache line: vectors that lie across two are several times slower to add to.
class Room {
  public:
    explicit Room(int64_t size) : held_(new (std::nothrow) float[size + LANES]()) {}
    float* get() const {
        const auto at = reinterpret_cast<uintptr_t>(held_.get()) / sizeof(float);
        return held_.get() + (LANES - at % LANES) % LANES;
    }
    explicit operator bool() const { return static_cast<bool>(held_); }

  private:
    std::unique_ptr<float[]> held_;
};

struct Grid {
    int64_t lanes, wide, inputs;  // filled output channels; columns with a margin; values of a frame
    int64_t sums, image, line;    // floats: sums with margins, an output frame, a row of it
    int64_t to[TAPS];             // where each weight's product goes, from the upper left corner of a pixel's window
    explicit Grid(const Convolution& s) {
        lanes = (s.out_channels + BLOCK - 1) / BLOCK * BLOCK;
        wide = s.width + SIDE - 1;
        inputs = s.height * s.width * s.channels;
        sums = (s.height + SIDE - 1) * wide * lanes;
        line = s.width * lanes;
        image = s.height * line;
        for (int tap = 0; tap < TAPS; ++tap) {  // the sum below an input takes its upper weight
            const int row = SIDE - 1 - tap / SIDE, column = SIDE - 1 - tap % SIDE;
            to[tap] = (row * wide + column) * lanes;
        }
    }
};

// Where each input of a frame adds to, and its weights [C, 3, 3, lanes].
struct Tables {
    Room weights;
    std::unique_ptr<int32_t[]> sum, weight;
    Tables(const Convolution& s, const Grid& g, const float* given)
        : weights(s.channels * TAPS * g.lanes),
          sum(new (std::nothrow) int32_t[g.inputs]),
          weight(new (std::nothrow) int32_t[g.inputs]) {
        if (!*this) return;
        for (int64_t o = 0; o < s.out_channels; ++o)
            for (int64_t i = 0; i < s.channels * TAPS; ++i) weights.get()[i * g.lanes + o] = given[o * s.channels * TAPS + i];
        for (int64_t i = 0; i < g.inputs; ++i) {
            const int64_t pixel = i / s.channels;
            sum[i] = static_cast<int32_t>((pixel / s.width * g.wide + pixel % s.width) * g.lanes);
            weight[i] = static_cast<int32_t>(i % s.channels * TAPS * g.lanes);
        }
    }
    explicit operator bool() const { return weights && sum && weight; }
};

// Positions of the inputs of a frame that are not zero, in order; returns how many there are.
int64_t live_inputs(const float* frame, int64_t n, int32_t* live) {
    int64_t count = 0;
    for (int64_t from = 0; from < n; from += BLOCK) {
        const int64_t to = std::min(from + BLOCK, n);
        if (to == from + BLOCK) {
            int any = 0;
#pragma omp simd reduction(| : any)
            for (int64_t i = 0; i < BLOCK; ++i) any |= frame[from + i] != 0.0f;
            if (!any) continue;
        }
        for (int64_t i = from; i < to; ++i) {
            live[count] = static_cast<int32_t>(i);
            count += frame[i] != 0.0f;
        }
    }
    return count;
}

// Adds the live inputs of one pixel, with some of their lanes, to the sums around it.
template <int BLOCKS>
inline void add(const Grid& g, const Tables& tables, const float* frame, const int32_t* live, const int32_t* end,
                float* sums, int64_t lane) {
    Vector held[TAPS][BLOCKS];
    for (int tap = 0; tap < TAPS; ++tap)
        for (int b = 0; b < BLOCKS; ++b) held[tap][b] = load(sums + g.to[tap] + lane + b * BLOCK);
    for (; live < end; ++live) {
        const Vector x = all(frame[*live]);
        const float* weights = tables.weights.get() + tables.weight[*live] + lane;
        for (int tap = 0; tap < TAPS; ++tap, weights += g.lanes)
            for (int b = 0; b < BLOCKS; ++b) held[tap][b] = fma(x, load(weights + b * BLOCK), held[tap][b]);
    }
    for (int tap = 0; tap < TAPS; ++tap)
        for (int b = 0; b < BLOCKS; ++b) store(sums + g.to[tap] + lane + b * BLOCK, held[tap][b]);
}

// The sums [H, W, lanes] of one frame [H, W, C]. `live` has room for the positions of its inputs.
void convolve(const Grid& g, const Tables& tables, const float* frame, int32_t* live, float* sums) {
    std::fill(sums, sums + g.sums, 0.0f);
    const int64_t count = live_inputs(frame, g.inputs, live);
    for (int64_t n = 0, end = 0; n < count; n = end) {  // pixel by pixel, all that it adds to in registers
        const int32_t at = tables.sum[live[n]];
        for (end = n + 1; end < count && tables.sum[live[end]] == at;) ++end;
        int64_t lane = 0;
        for (; lane + 2 * BLOCK <= g.lanes; lane += 2 * BLOCK)
            add<2>(g, tables, frame, live + n, live + end, sums + at, lane);
        if (lane < g.lanes) add<1>(g, tables, frame, live + n, live + end, sums + at, lane);
    }
}

// 2 x 2 windows of two rows of pixels [W, lanes].
template <class Two>
void pooled_pixels(Two two, float factor, const float* top, int64_t width, int64_t lanes, float* out) {
    const float* below = top + width * lanes;
    for (int64_t j = 0; j < width / 2; ++j, top += 2 * lanes, below += 2 * lanes, out += lanes)
        for (int64_t from = 0; from < lanes; from += BLOCK)
#pragma omp simd
            for (int64_t i = from; i < from + BLOCK; ++i)
                out[i] = two(two(top[i], top[lanes + i]), two(below[i], below[lanes + i])) * factor;
}

void pooled_pixels(const Neuron& k, const float* spikes, int64_t width, int64_t lanes, float* out) {
    const auto sum = [](float a, float b) { return a + b; };
    const auto largest = [](float a, float b) { return a < b ? b : a; };
    if (k.pool == MEAN_POOL) pooled_pixels(sum, 0.25f, spikes, width, lanes, out);
    else pooled_pixels(largest, 1.0f, spikes, width, lanes, out);
}

}  // namespace

// Weights are [O, C, 3, 3]. Without a neuron, the sums themselves, [steps, N, H, W, O]. Returns 0, or 1 where there
// is no memory for what it keeps on the way.
extern "C" int convolved(const Neuron* neuron, const Convolution* given, const float* input, const float* weight,
                         const float* scale, const float* shift, float* out) {
    const Convolution& s = *given;
    const Grid g(s);
    const Tables tables(s, g, weight);
    const Neuron k = neuron == nullptr ? Neuron{} : without_division(*neuron);
    const Step step = step_of(k);
    const bool fixed = s.current_steps < s.steps, pool = k.pool != NO_POOL;
    const int64_t rows = pool ? 2 : 1, height = s.height / rows, width = s.width / rows;
    const int64_t own = (g.sums + 2 * g.image + 3 * g.line + LANES - 1) / LANES * LANES;
    const Room room(own * s.threads + 2 * g.line);
    const std::unique_ptr<int32_t[]> lists(new (std::nothrow) int32_t[g.inputs * s.threads]);
    if (!tables || !room || !lists) return 1;
    float *scales = room.get() + own * s.threads, *shifts = scales + g.line;
    for (int64_t i = 0; i < g.line && scale != nullptr; ++i)
        if (i % g.lanes < s.out_channels) scales[i] = scale[i % g.lanes], shifts[i] = shift[i % g.lanes];
#pragma omp parallel num_threads(s.threads)
    {
        float* sums = room.get() + own * thread();
        float *x = sums + g.sums, *v = x + g.image, *spikes = v + g.image, *windows = spikes + 2 * g.line;
        int32_t* live = lists.get() + g.inputs * thread();
        const float* inner = sums + SIDE / 2 * (g.wide + 1) * g.lanes;  // without the margin
#pragma omp for schedule(static)
        for (int64_t n = 0; n < s.samples; ++n) {
            const auto charge = [&](int64_t t) {
                convolve(g, tables, input + (t * s.samples + n) * g.inputs, live, sums);
                for (int64_t row = 0; row < s.height; ++row) {
                    const float* from = inner + row * g.wide * g.lanes;
                    float* to = x + row * g.line;
                    if (scale == nullptr) std::copy(from, from + g.line, to);
                    else normalised(s.contracted, from, scales, shifts, g.line, to);
                }
            };
            const auto put = [&](const float* line, int64_t t, int64_t row) {  // pixels [width, lanes]
                float* to = out + (t * s.samples + n) * s.out_channels * height * width;
                if (s.channels_last) {
                    to += row * width * s.out_channels;
                    if (g.lanes == s.out_channels) {
                        std::copy(line, line + width * g.lanes, to);
                        return;
                    }
                    for (int64_t j = 0; j < width; ++j)
                        std::copy(line + j * g.lanes, line + j * g.lanes + s.out_channels, to + j * s.out_channels);
                    return;
                }
                for (int64_t o = 0; o < s.out_channels; ++o)
                    for (int64_t j = 0; j < width; ++j) to[(o * height + row) * width + j] = line[j * g.lanes + o];
            };
            const auto fire = [&](int64_t t, int64_t row) {
                const int64_t from = rows * row * g.line;
                step(k, x + from, v + from, spikes, rows * g.line);
                if (pool) pooled_pixels(k, spikes, s.width, g.lanes, windows);
                put(pool ? windows : spikes, t, row);
            };
            std::fill(v, v + g.image, k.start);
            for (int64_t t = 0; t < s.current_steps; ++t) {
                charge(t);
                for (int64_t row = 0; row < height; ++row) {
                    if (neuron == nullptr) put(x + row * g.line, t, row);
                    else if (!fixed) fire(t, row);
                    else
                        for (int64_t each = 0; each < s.steps; ++each) fire(each, row);
                }
            }
        }
    }
    return 0;
}
