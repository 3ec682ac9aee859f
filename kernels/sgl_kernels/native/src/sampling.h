// Drawing a token from a row of logits under a mask. The definition is sampling/reference.py; here nothing of the size of
// the vocabulary is written unless tokens must be ranked.
#pragma once
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "numbers.h"

namespace sgl {

struct SamplingRow {
    const float* logits;
    const int32_t* mask;  // or null
    float temperature, min_p;
    int64_t top_k;
    double top_p, uniform;
};

struct SamplingScratch {
    std::vector<double> sums;
    std::vector<float> weights;
    std::vector<int32_t> order, counts;
};

constexpr long BLOCK = 128;

static inline uint32_t allowed_bits(const int32_t* mask, long word, long width) {
    uint32_t bits = mask ? uint32_t(mask[word]) : 0xffffffffu;
    long left = width - 32 * word;
    return left >= 32 ? bits : bits & ((1u << left) - 1);
}

// logits of one word of tokens as two vectors, -inf where not allowed
static inline void masked_word(const float* logits, uint32_t bits, vec* out) {
#if defined(SGL_AVX512)
    const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    out[0] = (vec)_mm512_mask_loadu_ps(none, __mmask16(bits), logits);
    out[1] = (vec)_mm512_mask_loadu_ps(none, __mmask16(bits >> 16), logits + 16);
#else
    float values[32];
    for (int j = 0; j < 32; ++j) values[j] = (bits >> j) & 1 ? logits[j] : -std::numeric_limits<float>::infinity();
    out[0] = load(values), out[1] = load(values + 16);
#endif
}

// The largest allowed logit; NaN if any allowed one is NaN.
static inline float largest_allowed(const SamplingRow& row, long width) {
    vec most = splat(-std::numeric_limits<float>::infinity());
    vec poison = {};
    for (long word = 0; word < (width + 31) / 32; ++word) {
        uint32_t bits = allowed_bits(row.mask, word, width);
        if (!bits) continue;
        vec pair[2];
        masked_word(row.logits + 32 * word, bits, pair);
        for (vec v : pair) {
            most = larger(v, most);
            poison = v != v ? v : poison;
        }
    }
    for (int i = 0; i < LANES; ++i)
        if (poison[i] != poison[i]) return poison[i];
    return largest(most);
}

static inline int64_t first_equal(const SamplingRow& row, long width, float value) {
    for (long word = 0; word < (width + 31) / 32; ++word) {
        uint32_t bits = allowed_bits(row.mask, word, width);
        if (!bits) continue;
        vec pair[2];
        masked_word(row.logits + 32 * word, bits, pair);
        for (int half = 0; half < 2; ++half)
            for (int i = 0; i < LANES; ++i)
                if (pair[half][i] == value) return 32 * word + 16 * half + i;
    }
    return 0;
}

// exp((logit - largest) / temperature) of a block of up to 128 tokens, 0 where not allowed or under min_p
static inline void block_weights(const SamplingRow& row, long width, long block, float most, float* out) {
    float heat = 1.0f / row.temperature;
    for (long w = 0; w < BLOCK / 32; ++w) {
        long word = block * (BLOCK / 32) + w;
        uint32_t bits = 32 * word < width ? allowed_bits(row.mask, word, width) : 0;
        vec pair[2] = {};
        if (bits) {
            masked_word(row.logits + 32 * word, bits, pair);
            for (vec& v : pair) {
                v = exponential((v - most) * heat);
                v = v < row.min_p ? vec{} : v;
            }
        }
        store(out + 32 * w, pair[0]);
        store(out + 32 * w + 16, pair[1]);
    }
}

// First index where the cumulated numbers pass uniform * total, and how far into it: [0, 1).
template <class T> static inline long invert(const T* weights, long count, double uniform, double* share) {
    double total = 0, sum = 0;
    for (long i = 0; i < count; ++i) total += weights[i];
    double target = uniform * total;
    long last = 0;
    for (long i = 0; i < count; ++i) {
        if (weights[i] > 0) last = i;
        if (sum + weights[i] > target) {
            *share = std::min((target - sum) / weights[i], 1.0 - 1e-16);
            return i;
        }
        sum += weights[i];
    }
    *share = 0;
    return last;
}

static inline int64_t draw_plain(const SamplingRow& row, long width, float most, SamplingScratch& scratch) {
    long blocks = (width + BLOCK - 1) / BLOCK;
    scratch.sums.resize(blocks);
    alignas(64) float weights[BLOCK];
    for (long b = 0; b < blocks; ++b) {
        block_weights(row, width, b, most, weights);
        vec total = {};
        for (long i = 0; i < BLOCK; i += LANES) total += load(weights + i);
        scratch.sums[b] = sum(total);
    }
    double share;
    long block = invert(scratch.sums.data(), blocks, row.uniform, &share);
    block_weights(row, width, block, most, weights);
    return block * BLOCK + invert(weights, BLOCK, share, &share);
}

// Tokens by weight, likeliest first, as many as top-k or top-p can reach. A histogram over the weights' leading bits
// (16 classes per octave) tells how far down that is, so only those are sorted. `whole` is what top-p is a share of.
static inline void rank(const SamplingRow& row, const float* weights, long width, SamplingScratch& scratch,
                        double* whole) {
    constexpr int CLASSES = (0x3f800000 >> 19) + 1;  // weights are at most 1
    auto class_of = [](float weight) {
        uint32_t bits;
        std::memcpy(&bits, &weight, sizeof bits);
        return int(bits >> 19);
    };
    scratch.sums.assign(CLASSES, 0.0);
    scratch.counts.assign(CLASSES, 0);
    for (long i = 0; i < width; ++i) {
        int c = class_of(weights[i]);
        scratch.sums[c] += weights[i];
        ++scratch.counts[c];
    }
    double total = 0, mass = 0;
    for (double part : scratch.sums) total += part;
    long count = 0;
    int lowest = CLASSES;
    while (lowest > 0) {
        --lowest;
        mass += scratch.sums[lowest];
        count += scratch.counts[lowest];
        if (row.top_k > 0 ? count >= row.top_k : mass >= row.top_p * total * (1 + 1e-9)) break;
    }
    scratch.order.clear();
    for (long i = 0; i < width; ++i)
        if (weights[i] > 0 && class_of(weights[i]) >= lowest) scratch.order.push_back(int32_t(i));
    std::sort(scratch.order.begin(), scratch.order.end(), [&](int32_t a, int32_t b) {
        return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
    });
    if (row.top_k > 0 && row.top_k < long(scratch.order.size())) scratch.order.resize(row.top_k);
    *whole = total;
    if (row.top_k > 0) {
        *whole = 0;
        for (int32_t token : scratch.order) *whole += weights[token];
    }
}

static inline int64_t draw_ranked(const SamplingRow& row, long width, float most, SamplingScratch& scratch) {
    long blocks = (width + BLOCK - 1) / BLOCK;
    scratch.weights.resize(blocks * BLOCK);
    float* weights = scratch.weights.data();
    SamplingRow open = row;  // min-p comes last, so it must not take mass away from what top-p is a share of
    open.min_p = 0;
    for (long b = 0; b < blocks; ++b) block_weights(open, width, b, most, weights + b * BLOCK);
    double whole, mass = 0;
    rank(row, weights, width, scratch, &whole);
    const std::vector<int32_t>& order = scratch.order;
    long kept = 0;
    for (; kept < long(order.size()); ++kept) {
        float weight = weights[order[kept]];
        if (kept > 0 && ((row.top_p < 1.0 && mass >= row.top_p * whole) || weight < row.min_p)) break;
        mass += weight;
    }
    double target = row.uniform * mass, passed = 0;
    for (long i = 0; i < kept; ++i) {
        passed += weights[order[i]];
        if (passed > target) return order[i];
    }
    return order[kept - 1];
}

// The token, or 0 with *finite false.
static inline int64_t sample_row(const SamplingRow& row, long width, SamplingScratch& scratch, bool* finite) {
    float most = largest_allowed(row, width);
    *finite = std::isfinite(most);
    if (!*finite) return 0;
    if (row.temperature == 0.0f) return first_equal(row, width, most);
    if (row.top_k > 0 || row.top_p < 1.0) return draw_ranked(row, width, most, scratch);
    return draw_plain(row, width, most, scratch);
}

// log of the sum of exp of a row
static inline float log_sum(const float* logits, long width) {
    SamplingRow row{logits, nullptr, 1.0f, 0.0f, 0, 1.0, 0.0};
    float most = largest_allowed(row, width);
    if (!std::isfinite(most)) return most;
    double total = 0;
    alignas(64) float weights[BLOCK];
    for (long b = 0; b < (width + BLOCK - 1) / BLOCK; ++b) {
        block_weights(row, width, b, most, weights);
        vec part = {};
        for (long i = 0; i < BLOCK; i += LANES) part += load(weights + i);
        total += sum(part);
    }
    return most + float(std::log(total));
}

}  // namespace sgl
