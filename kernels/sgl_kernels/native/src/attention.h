// Attention of a few query rows over keys and values that lie in pages.
//
// Memory: [layers][2 (key, value)][pages][kv_heads][page_size][head_dim]. The tokens of a sequence are found through an
// array of pointers to their keys, made once per sequence and head; a value lies at a fixed distance from its key. So
// page sizes do not matter to the inner loops. The array goes FETCH_KEYS + 16 beyond the last token, pointing at it.
#pragma once
#include <algorithm>

#include "numbers.h"

namespace sgl {

constexpr long FETCH_KEYS = 32;  // a sequence's pages are scattered, so the hardware cannot guess what comes next

template <class W> static inline void fetch(const W* row, int dim) {
    for (unsigned long byte = 0; byte < dim * sizeof(W); byte += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(row) + byte);
}

#if defined(SGL_AVX512)
// Lane t of the result is the sum of the lanes of sums[t].
static inline __m512 sum_each(const __m512* sums) {
    __m512 fours[4];
    for (int i = 0; i < 4; ++i) {
        const __m512* s = sums + 4 * i;
        __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(s[0], s[1]), _mm512_unpackhi_ps(s[0], s[1]));
        __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(s[2], s[3]), _mm512_unpackhi_ps(s[2], s[3]));
        __m512d lo = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        __m512d hi = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        fours[i] = _mm512_add_ps(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi));
    }
    auto fold = [](__m512 x, __m512 y) {
        return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
    };
    return fold(fold(fours[0], fours[1]), fold(fours[2], fours[3]));
}

static inline void score16(const float* q, const float* const* keys, int dim, float* out) {
    __m512 sums[16];
    for (auto& s : sums) s = _mm512_setzero_ps();
    for (int d = 0; d < dim; d += 16) {
        __mmask16 mask = dim - d >= 16 ? 0xffff : __mmask16((1u << (dim - d)) - 1);
        __m512 x = _mm512_maskz_loadu_ps(mask, q + d);
        for (int t = 0; t < 16; ++t) sums[t] = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(mask, keys[t] + d), sums[t]);
    }
    _mm512_storeu_ps(out, sum_each(sums));
}
#else
static inline void score16(const float* q, const float* const* keys, int dim, float* out) {
    for (int t = 0; t < 16; ++t) {
        float total = 0;
        for (int d = 0; d < dim; ++d) total += q[d] * keys[t][d];
        out[t] = total;
    }
}
#endif

#if defined(SGL_AVX512_BF16)
static inline void score16(const bf16* q, const bf16* const* keys, int dim, float* out) {
    __m512 sums[16];
    for (auto& s : sums) s = _mm512_setzero_ps();
    for (int d = 0; d < dim; d += 32) {
        __mmask32 mask = dim - d >= 32 ? 0xffffffffu : (1u << (dim - d)) - 1;
        __m512bh x = (__m512bh)_mm512_maskz_loadu_epi16(mask, q + d);
        for (int t = 0; t < 16; ++t)
            sums[t] = _mm512_dpbf16_ps(sums[t], x, (__m512bh)_mm512_maskz_loadu_epi16(mask, keys[t] + d));
    }
    _mm512_storeu_ps(out, sum_each(sums));
}
#else
static inline void score16(const bf16* q, const bf16* const* keys, int dim, float* out) {
    for (int t = 0; t < 16; ++t) {
        float total = 0;
        for (int d = 0; d < dim; ++d) total += widen(q[d]) * widen(keys[t][d]);
        out[t] = total;
    }
}
#endif

// out [dim] += sum over tokens of weights[t] * value of token t, 16 * BLOCKS columns at a time
template <class W, int BLOCKS>
static inline void mix(const float* weights, const W* const* keys, long to_value, long count, float* out) {
    constexpr int CHAINS = BLOCKS <= 4 ? 2 : 1;
    vec sums[CHAINS][BLOCKS] = {};
    long t = 0;
    for (; t + CHAINS <= count; t += CHAINS)
        for (int c = 0; c < CHAINS; ++c) {
            const W* value = keys[t + c] + to_value;
            fetch(keys[t + c + FETCH_KEYS] + to_value, BLOCKS * LANES);
            vec weight = splat(weights[t + c]);
            for (int b = 0; b < BLOCKS; ++b) sums[c][b] += weight * load(value + b * LANES);
        }
    for (; t < count; ++t)
        for (int b = 0; b < BLOCKS; ++b) sums[0][b] += splat(weights[t]) * load(keys[t] + to_value + b * LANES);
    for (int b = 0; b < BLOCKS; ++b) {
        vec total = sums[0][b];
        if (CHAINS == 2) total += sums[CHAINS - 1][b];
        store(out + b * LANES, load(out + b * LANES) + total);
    }
}

template <class W>
static inline void mix_values(const float* weights, const W* const* keys, long to_value, long count, int dim, float* out) {
    int d = 0;
    for (; d + 128 <= dim; d += 128) mix<W, 8>(weights, keys, to_value + d, count, out + d);
    for (; d + 64 <= dim; d += 64) mix<W, 4>(weights, keys, to_value + d, count, out + d);
    for (; d + 16 <= dim; d += 16) mix<W, 1>(weights, keys, to_value + d, count, out + d);
    for (; d < dim; ++d)
        for (long t = 0; t < count; ++t) out[d] += weights[t] * widen(keys[t][to_value + d]);
}

// scores [count] -> exp(scale * (score - largest)); returns their sum. `scores` may be written up to the next multiple
// of 16.
static inline float soften(float* scores, long count, float scale) {
    vec most = splat(scores[0]);
    long whole = count / LANES * LANES;
    for (long i = 0; i < whole; i += LANES) most = larger(load(scores + i), most);
    float largest = sgl::largest(most);
    for (long i = whole; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
    vec total = {};
    long t = 0;
    for (; t + LANES <= count; t += LANES) {
        vec e = exponential((load(scores + t) - largest) * scale);
        store(scores + t, e);
        total += e;
    }
    float rest = 0;
    if (t < count) {
        vec e = exponential((load(scores + t) - largest) * scale);
        store(scores + t, e);
        for (int i = 0; t + i < count; ++i) rest += scores[t + i];
    }
    // NaN anywhere must not be lost: comparisons above skip it, the sum does not.
    return sum(total) + rest;
}

constexpr long KEYS_AT_ONCE = 256;  // keys of one chunk stay in the first two cache levels while all rows use them

// rows query rows [row][dim], `stride` apart; row i sees the first visible[i] tokens. scores: scratch, rows x
// score_stride. Writes out like queries.
template <class W>
static inline void attend_rows(const W* queries, W* out, long stride, int rows, const long* visible,
                               const W* const* keys, long to_value, int dim, float scale, float* scores,
                               long score_stride, float* mixed) {
    long longest = *std::max_element(visible, visible + rows);
    for (long start = 0; start < longest; start += KEYS_AT_ONCE)
        for (int r = 0; r < rows; ++r) {
            long end = std::min(visible[r], start + KEYS_AT_ONCE);
            for (long t = start; t < end; t += 16) {
                if (r == 0)
                    for (long ahead = t + FETCH_KEYS; ahead < t + FETCH_KEYS + 16; ++ahead) fetch(keys[ahead], dim);
                score16(queries + r * stride, keys + t, dim, scores + r * score_stride + t);
            }
        }
    float totals[64];
    for (int r = 0; r < rows; ++r) totals[r] = soften(scores + r * score_stride, visible[r], scale);
    std::fill(mixed, mixed + rows * dim, 0.0f);
    for (long start = 0; start < longest; start += KEYS_AT_ONCE)
        for (int r = 0; r < rows; ++r) {
            long count = std::min(visible[r], start + KEYS_AT_ONCE) - start;
            if (count > 0)
                mix_values(scores + r * score_stride + start, keys + start, to_value, count, dim, mixed + r * dim);
        }
    for (int r = 0; r < rows; ++r) narrow_all(mixed + r * dim, 1.0f / totals[r], dim, out + r * stride);
}

}  // namespace sgl
