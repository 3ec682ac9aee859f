// Matrix products with weights packed once, at load time.
//
// A weight [N, K] is stored as panels of 32 output columns. Inside a panel the layout follows the multiply instruction:
// float32 [K][32], bfloat16 [K / 2][32][2] (two neighbours along K are multiplied and added by one instruction).
// A tile of up to MAX_ROWS rows times one panel stays in registers; its sums go to an epilogue that adds, activates or
// rounds them on the way out.
#pragma once
#include "numbers.h"

namespace sgl {

constexpr int COLUMNS = 32;
#if defined(SGL_AVX512)
constexpr int MAX_ROWS = 12;
#else
constexpr int MAX_ROWS = 3;
#endif

// Weights stream by in order, yet the hardware looks less far ahead the more arithmetic lies between two loads: with 8
// rows it reached 28 GB/s on one core where this reaches 40, as much as one row does.
static inline void fetch_ahead(const void* p) {
    constexpr long AHEAD = 8192;
    __builtin_prefetch(static_cast<const char*>(p) + AHEAD);
    __builtin_prefetch(static_cast<const char*>(p) + AHEAD + 64);
}

template <int ROWS> static inline void tile(const float* a, long stride, const float* w, long depth, float* out) {
    constexpr int CHAINS = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;  // independent sums hide the latency of few rows
    vec sums[CHAINS][ROWS][2] = {};
    long k = 0;
    for (; k + CHAINS <= depth; k += CHAINS) {
        for (int c = 0; c < CHAINS; ++c) {
            const float* panel = w + (k + c) * COLUMNS;
            fetch_ahead(panel);
            vec w0 = load(panel), w1 = load(panel + LANES);
            for (int r = 0; r < ROWS; ++r) {
                vec x = splat(a[r * stride + k + c]);
                sums[c][r][0] += x * w0;
                sums[c][r][1] += x * w1;
            }
        }
    }
    for (; k < depth; ++k) {
        vec w0 = load(w + k * COLUMNS), w1 = load(w + k * COLUMNS + LANES);
        for (int r = 0; r < ROWS; ++r) {
            vec x = splat(a[r * stride + k]);
            sums[0][r][0] += x * w0;
            sums[0][r][1] += x * w1;
        }
    }
    for (int c = 1; c < CHAINS; ++c)
        for (int r = 0; r < ROWS; ++r)
            for (int half = 0; half < 2; ++half) sums[0][r][half] += sums[c][r][half];
    for (int r = 0; r < ROWS; ++r)
        for (int half = 0; half < 2; ++half) store(out + r * COLUMNS + half * LANES, sums[0][r][half]);
}

// out += the products of one pair of neighbours along K with 16 columns
static inline vec pair_product(vec sums, const bf16* w, uint32_t pair) {
#if defined(SGL_AVX512_BF16)
    return (vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32(int(pair)));
#else
    uvec both;
    std::memcpy(&both, w, sizeof both);
    uvec even = both << 16, odd = both & 0xffff0000u;
    vec first, second;
    std::memcpy(&first, &even, sizeof first);
    std::memcpy(&second, &odd, sizeof second);
    return sums + first * widen(bf16{uint16_t(pair)}) + second * widen(bf16{uint16_t(pair >> 16)});
#endif
}

static inline uint32_t pair_at(const bf16* a) {
    uint32_t pair;
    std::memcpy(&pair, a, sizeof pair);
    return pair;
}

template <int ROWS> static inline void tile(const bf16* a, long stride, const bf16* w, long depth, float* out) {
    constexpr int CHAINS = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;
    vec sums[CHAINS][ROWS][2] = {};
    long pairs = depth / 2, k = 0;
    for (; k + CHAINS <= pairs; k += CHAINS) {
        for (int c = 0; c < CHAINS; ++c) {
            const bf16* panel = w + (k + c) * 2 * COLUMNS;
            fetch_ahead(panel);
            for (int r = 0; r < ROWS; ++r) {
                uint32_t pair = pair_at(a + r * stride + 2 * (k + c));
                sums[c][r][0] = pair_product(sums[c][r][0], panel, pair);
                sums[c][r][1] = pair_product(sums[c][r][1], panel + 2 * LANES, pair);
            }
        }
    }
    for (; k < pairs; ++k) {
        const bf16* panel = w + k * 2 * COLUMNS;
        for (int r = 0; r < ROWS; ++r) {
            uint32_t pair = pair_at(a + r * stride + 2 * k);
            sums[0][r][0] = pair_product(sums[0][r][0], panel, pair);
            sums[0][r][1] = pair_product(sums[0][r][1], panel + 2 * LANES, pair);
        }
    }
    for (int c = 1; c < CHAINS; ++c)
        for (int r = 0; r < ROWS; ++r)
            for (int half = 0; half < 2; ++half) sums[0][r][half] += sums[c][r][half];
    for (int r = 0; r < ROWS; ++r)
        for (int half = 0; half < 2; ++half) store(out + r * COLUMNS + half * LANES, sums[0][r][half]);
}

template <class W, int ROWS>
static inline void tile_of(int rows, const W* a, long stride, const W* w, long depth, float* out) {
    if (rows == ROWS) return tile<ROWS>(a, stride, w, depth, out);
    if constexpr (ROWS > 1) tile_of<W, ROWS - 1>(rows, a, stride, w, depth, out);
}

// One panel of a [rows, depth] times its weights; epilogue(first row, rows, sums [rows][32]).
template <class W, class Epilogue>
static inline void multiply_panel(const W* a, long stride, long rows, const W* panel, long depth, Epilogue&& epilogue) {
    alignas(64) float sums[MAX_ROWS * COLUMNS];
    long blocks = (rows + MAX_ROWS - 1) / MAX_ROWS;
    for (long b = 0; b < blocks; ++b) {
        long start = rows * b / blocks, end = rows * (b + 1) / blocks;  // blocks of nearly equal height
        tile_of<W, MAX_ROWS>(int(end - start), a + start * stride, stride, panel, depth, sums);
        epilogue(start, int(end - start), sums);
    }
}

static inline long panel_size(long depth) { return depth * COLUMNS; }

// Offset of element (row, k) inside the packed weight.
template <class W> static inline long packed_at(long row, long k, long depth) {
    long panel = row / COLUMNS * panel_size(depth), column = row % COLUMNS;
    if (sizeof(W) == 2) return panel + (k / 2) * 2 * COLUMNS + column * 2 + k % 2;
    return panel + k * COLUMNS + column;
}

// source [rows, depth] row-major -> packed; row r goes to map[r]; what no row maps to must have been zeroed.
template <class W>
static inline void pack(const W* source, long rows, long depth, const int64_t* map, W* out, long padded_depth) {
    for (long r = 0; r < rows; ++r)
        for (long k = 0; k < depth; ++k)
            out[packed_at<W>(map[r], k, padded_depth)] = source[r * depth + k];
}

}  // namespace sgl
