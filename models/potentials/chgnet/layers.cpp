// CHGNet's gated perceptrons over messages and angles, forward and backward, on one core.
//
// The same as `passed` in chgnet_layers.py, which explains what a layer is, in one sweep: what a block of rows needs
// stays in the first cache from its gathered terms to its scattered sums. What the gradient needs of it is kept, block
// by block: to read it back takes a third of the time that computing it anew would. Widths
// are CHGNet's: 64 features, core and gate side by side in 128. Weights come centred over the outputs of core and of
// gate, so that layer normalisation finds a mean of zero and neither subtracts one nor propagates it. The caller has
// subnormal numbers flushed to zero: arithmetic on them is a hundred times slower.

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE = 2;
#else
constexpr int LANES = 4, TILE = 4;
#endif
typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

constexpr int W = 64, W2 = 128, ROWS = 6, BLOCK = 48, STRIP = 96, MOST_INNER = 512;
constexpr int N = W / LANES;  // vectors in 64 floats

inline Floats load(const float* p) { Floats v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }
inline Floats all(float x) { return x - Floats{}; }

inline float sum(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float lanes[LANES];
    store(lanes, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
    return lanes[0];
#endif
}

// exp within 2e-7, arguments beyond +-87 cut off there: neither infinite nor subnormal.
inline Floats exponential(Floats x) {
    x = x > 87.0f ? all(87.0f) : x;
    x = x < -87.0f ? all(-87.0f) : x;
    const Floats shifted = x * 1.44269504f + 12582912.0f;  // the nearest integer lands in the last bits
    const Floats n = shifted - 12582912.0f;
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (Floats)((Ints)p + ((Ints)shifted << 23));
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

// A tile of c = a * w (+ bias, or + c): ROWS rows, T vectors of columns. What a row comes to depends on no other.
template <int T, bool ADD>
inline void tile(int64_t inner, const float* a, int64_t lda, const float* w, int64_t ldw, const float* bias, float* c,
                 int64_t ldc) {
    Floats s[ROWS][T];
    for (int r = 0; r < ROWS; r++)
        for (int t = 0; t < T; t++)
            s[r][t] = ADD ? load(c + r * ldc + t * LANES) : bias ? load(bias + t * LANES) : Floats{};
    for (int64_t k = 0; k < inner; k++) {
        Floats b[T];
        for (int t = 0; t < T; t++) b[t] = load(w + k * ldw + t * LANES);
        for (int r = 0; r < ROWS; r++)
            for (int t = 0; t < T; t++) s[r][t] += a[r * lda + k] * b[t];
    }
    for (int r = 0; r < ROWS; r++)
        for (int t = 0; t < T; t++) store(c + r * ldc + t * LANES, s[r][t]);
}

// c[rows, columns] = a[rows, K] * w[K, columns] (+ bias, or + c); rows are a multiple of ROWS, columns of a tile.
template <int K, bool ADD>
void product(int rows, int columns, const float* a, int lda, const float* w, int ldw, const float* bias, float* c,
             int ldc) {
    for (int j = 0; j < columns; j += TILE * LANES)
        for (int i = 0; i < rows; i += ROWS)
            tile<TILE, ADD>(K, a + i * lda, lda, w + j, ldw, bias ? bias + j : nullptr, c + i * ldc + j, ldc);
}

// The same for any number of rows and inner columns, with T vectors of columns at once.
template <int T>
void dense_by(int64_t n, int64_t inner, int64_t columns, const float* a, const float* w, const float* bias, float* c) {
    if (n < ROWS) {
        float rows[ROWS * MOST_INNER] = {}, results[ROWS * T * LANES];
        std::memcpy(rows, a, sizeof(float) * n * inner);
        for (int64_t j = 0; j < columns; j += T * LANES) {
            tile<T, false>(inner, rows, inner, w + j, columns, bias ? bias + j : nullptr, results, T * LANES);
            for (int64_t i = 0; i < n; i++)
                std::memcpy(c + i * columns + j, results + i * T * LANES, sizeof(float) * T * LANES);
        }
        return;
    }
    for (int64_t start = 0; start < n; start += STRIP) {  // a strip of rows stays in the cache for all columns
        const int64_t end = start + STRIP < n ? start + STRIP : n;
        for (int64_t j = 0; j < columns; j += T * LANES)
            for (int64_t i = start; i < end; i += ROWS) {
                const int64_t row = i + ROWS <= n ? i : n - ROWS;  // the last rows again, rather than fewer at once
                tile<T, false>(inner, a + row * inner, inner, w + j, columns, bias ? bias + j : nullptr,
                               c + row * columns + j, columns);
            }
    }
}

}  // namespace

extern "C" {

struct Layer {
    const float* own;     // (64, 128) features of the rows themselves to the hidden layer, or null
    const float* own_back;  // (128, 64)
    const float* second[2];  // (64, 64) input to output, of core and gate, or null
    const float* second_back[2];
    const float* bias[2];
    const float* scale[2];
    const float* shift[2];
};

struct Rows {
    int64_t n;
    int64_t n_terms;
    const int64_t* term[3];
    int64_t n_factors;
    const int64_t* factor[2];
    const float* weight;       // (n,) or null
    const int64_t* receiver;   // (n,) or null
};

}

namespace {

// A block of rows: the first layer's active values, and of what is kept the slope of the activation (where there is a
// second layer) and what layer normalisation is given, z. Rows are padded to full tiles.
struct Block {
    alignas(64) float active[BLOCK * W2];
    float *slope, *z;
    int64_t start;
    int rows, padded;

    Block(const Layer& layer, int64_t n, int64_t at, float* kept) : start(at) {
        const bool deep = layer.second[0];
        slope = kept + at * W2 * (deep ? 2 : 1);
        z = deep ? slope + BLOCK * W2 : slope;
        rows = int(n - at < BLOCK ? n - at : BLOCK);
        padded = (rows + ROWS - 1) / ROWS * ROWS;
    }
};

// Hidden layers of the block's rows, then what layer normalisation is given.
void enter(const Layer& layer, const Rows& rows, const float* const* tables, const float* own, Block& b) {
    float* hidden = layer.second[0] ? b.active : b.z;
    for (int i = 0; i < b.rows; i++) {
        const int64_t row = b.start + i;
        float* h = hidden + i * W2;
        const float* one = tables[0] + rows.term[0][row] * W2;
        const float* two = tables[1] + rows.term[1][row] * W2;
        const float* three = rows.n_terms > 2 ? tables[2] + rows.term[2][row] * W2 : nullptr;
        for (int j = 0; j < W2; j += LANES) {
            Floats v = load(one + j) + load(two + j);
            if (three) v += load(three + j);
            store(h + j, v);
        }
    }
    std::memset(hidden + b.rows * W2, 0, sizeof(float) * (b.padded - b.rows) * W2);
    if (own) {
        alignas(64) float padded[BLOCK * W];
        const float* features = own + b.start * W;
        if (b.padded != b.rows) {
            std::memset(padded, 0, sizeof padded);
            std::memcpy(padded, features, sizeof(float) * b.rows * W);
            features = padded;
        }
        product<W, true>(b.padded, W2, features, W, layer.own, W2, nullptr, hidden, W2);
    }
    if (!layer.second[0]) return;
    for (int j = 0; j < b.padded * W2; j += LANES) {
        const Floats h = load(b.active + j), s = sigmoid(h), active = h * s;
        store(b.active + j, active);
        store(b.slope + j, s + active * (1.0f - s));
    }
    for (int half = 0; half < 2; half++)
        product<W, false>(b.padded, W, b.active + half * W, W2, layer.second[half], W, layer.bias[half],
                          b.z + half * W, W2);
}

inline float inverse_deviation(const float* z) {
    Floats square{};
    for (int j = 0; j < W; j += LANES) { const Floats v = load(z + j); square += v * v; }
    return 1.0f / std::sqrt(sum(square) / W + 1e-5f);
}

inline Floats factor_of(const Rows& rows, const float* scales, int64_t row, int j) {
    Floats f = load(scales + rows.factor[0][row] * W + j) * rows.weight[row];
    if (rows.n_factors > 1) f *= load(scales + rows.factor[1][row] * W + j);
    return f;
}

}  // namespace

extern "C" {

// result (n, columns) = rows (n, inner) * weight (inner, columns) + bias; columns are a multiple of 32, inner <= 512.
void dense(int64_t n, int64_t inner, int64_t columns, const float* rows, const float* weight, const float* bias,
           float* result) {
    if (n < 1) return;
    if (columns % (TILE * LANES)) dense_by<2>(n, inner, columns, rows, weight, bias, result);
    else dense_by<TILE>(n, inner, columns, rows, weight, bias, result);
}

// Where there are receivers, adds the rows' outputs to theirs, (_, 64); else each row's features with its output, (n, 64).
// `kept` has room for n rows, and a block more, of 128 numbers (256 where there is a second layer), for `backward`.
void forward(const Layer* layer, const Rows* rows, const float* const* tables, const float* own, const float* scales,
             float* kept, float* result) {
    for (int64_t start = 0; start < rows->n; start += BLOCK) {
        Block b(*layer, rows->n, start, kept);
        enter(*layer, *rows, tables, own, b);
        for (int i = 0; i < b.rows; i++) {
            const int64_t row = b.start + i;
            const float *core = b.z + i * W2, *gate = core + W;
            const float core_by = inverse_deviation(core), gate_by = inverse_deviation(gate);
            float* to = result + (rows->receiver ? rows->receiver[row] : row) * W;
            for (int j = 0; j < W; j += LANES) {
                const Floats c = load(core + j) * core_by * load(layer->scale[0] + j) + load(layer->shift[0] + j);
                const Floats g = load(gate + j) * gate_by * load(layer->scale[1] + j) + load(layer->shift[1] + j);
                Floats output = c / ((1.0f + exponential(-c)) * (1.0f + exponential(-g)));
                if (rows->receiver) output = load(to + j) + output * factor_of(*rows, scales, row, j);
                else output += load(own + row * W + j);
                store(to + j, output);
            }
        }
    }
}

// Slopes by the tables, the rows' own features and the table of scales; all but `by_own` are added to.
void backward(const Layer* layer, const Rows* rows, const float* own, const float* scales, float* kept,
              const float* slope, float* const* by_tables, float* by_own, float* by_scales) {
    alignas(64) float by_z[BLOCK * W2], by_hidden[BLOCK * W2], by_features[BLOCK * W];
    for (int64_t start = 0; start < rows->n; start += BLOCK) {
        const Block b(*layer, rows->n, start, kept);
        for (int i = 0; i < b.rows; i++) {
            const int64_t row = b.start + i;
            const float *core = b.z + i * W2, *gate = core + W;
            const float core_by = inverse_deviation(core), gate_by = inverse_deviation(gate);
            const float* from = slope + (rows->receiver ? rows->receiver[row] : row) * W;
            float* by = by_z + i * W2;
            Floats core_along{}, gate_along{};
            for (int j = 0; j < W; j += LANES) {
                const Floats xc = load(core + j) * core_by, xg = load(gate + j) * gate_by;
                const Floats core_scale = load(layer->scale[0] + j), gate_scale = load(layer->scale[1] + j);
                const Floats c = xc * core_scale + load(layer->shift[0] + j);
                const Floats g = xg * gate_scale + load(layer->shift[1] + j);
                const Floats sc = sigmoid(c), sg = sigmoid(g), active = c * sc;
                Floats arriving = load(from + j);
                if (rows->receiver) {
                    const Floats by_factor = active * sg * arriving * rows->weight[row];
                    float* one = by_scales + rows->factor[0][row] * W + j;
                    if (rows->n_factors > 1) {
                        float* two = by_scales + rows->factor[1][row] * W + j;
                        store(one, load(one) + by_factor * load(scales + rows->factor[1][row] * W + j));
                        store(two, load(two) + by_factor * load(scales + rows->factor[0][row] * W + j));
                    } else {
                        store(one, load(one) + by_factor);
                    }
                    arriving *= factor_of(*rows, scales, row, j);
                }
                const Floats by_core = arriving * sg * (sc + active * (1.0f - sc)) * core_scale;
                const Floats by_gate = arriving * active * sg * (1.0f - sg) * gate_scale;
                core_along += by_core * xc;
                gate_along += by_gate * xg;
                store(by + j, by_core);
                store(by + W + j, by_gate);
            }
            const float core_mean = sum(core_along) / W, gate_mean = sum(gate_along) / W;
            for (int j = 0; j < W; j += LANES) {
                const Floats xc = load(core + j) * core_by, xg = load(gate + j) * gate_by;
                store(by + j, core_by * (load(by + j) - xc * core_mean));
                store(by + W + j, gate_by * (load(by + W + j) - xg * gate_mean));
            }
        }
        std::memset(by_z + b.rows * W2, 0, sizeof(float) * (b.padded - b.rows) * W2);
        const float* arrived = by_z;
        if (layer->second[0]) {
            for (int half = 0; half < 2; half++)
                product<W, false>(b.padded, W, by_z + half * W, W2, layer->second_back[half], W, nullptr,
                                  by_hidden + half * W, W2);
            for (int j = 0; j < b.padded * W2; j += LANES)
                store(by_hidden + j, load(by_hidden + j) * load(b.slope + j));
            arrived = by_hidden;
        }
        for (int64_t t = 0; t < rows->n_terms; t++)
            for (int i = 0; i < b.rows; i++) {
                float* to = by_tables[t] + rows->term[t][b.start + i] * W2;
                for (int j = 0; j < W2; j += LANES) store(to + j, load(to + j) + load(arrived + i * W2 + j));
            }
        if (own) {
            product<W2, false>(b.padded, W, arrived, W2, layer->own_back, W, nullptr, by_features, W);
            for (int j = 0; j < b.rows * W; j += LANES) {
                const int64_t at = b.start * W + j;
                store(by_own + at, load(by_features + j) + (rows->receiver ? Floats{} : load(slope + at)));
            }
        }
    }
}
}
