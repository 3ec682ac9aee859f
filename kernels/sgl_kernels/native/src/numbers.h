// Number types and 16-lane vectors. Everything compiles on any processor that GCC or Clang knows; where AVX512 is there,
// one vector is one register.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define SGL_AVX512 1
#endif
#if defined(SGL_AVX512) && defined(__AVX512BF16__)
#define SGL_AVX512_BF16 1
#endif

namespace sgl {

struct bf16 {
    uint16_t bits;
};

constexpr int LANES = 16;
typedef float vec __attribute__((vector_size(64)));
typedef uint32_t uvec __attribute__((vector_size(64)));

static inline vec load(const float* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }
static inline vec splat(float x) { return vec{} + x; }

static inline vec load(const bf16* p) {
#if defined(SGL_AVX512)
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return (vec)_mm512_slli_epi32(wide, 16);
#else
    typedef uint16_t half __attribute__((vector_size(32)));
    half h;
    std::memcpy(&h, p, sizeof h);
    uvec wide = __builtin_convertvector(h, uvec) << 16;
    vec v;
    std::memcpy(&v, &wide, sizeof v);
    return v;
#endif
}

static inline float widen(float x) { return x; }
static inline float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

// Round to nearest, ties to even; NaN stays NaN.
static inline void narrow(float x, float* out) { *out = x; }
static inline void narrow(float x, bf16* out) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        out->bits = uint16_t((bits >> 16) | 0x40);
        return;
    }
    out->bits = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline void store(bf16* p, vec v) {
#if defined(SGL_AVX512_BF16)
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(p, &h, sizeof h);
#else
    for (int i = 0; i < LANES; ++i) narrow(v[i], p + i);
#endif
}

static inline float sum(vec v) {
#if defined(SGL_AVX512)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += v[i];
    return total;
#endif
}

static inline vec larger(vec a, vec b) { return a > b ? a : b; }

static inline float largest(vec v) {
    float most = v[0];
    for (int i = 1; i < LANES; ++i) most = v[i] > most ? v[i] : most;
    return most;
}

// Numbers beyond a multiple of 16 are handled one by one.
template <class W> static inline void narrow_all(const float* in, float factor, long count, W* out) {
    long i = 0;
    for (; i + LANES <= count; i += LANES) store(out + i, load(in + i) * factor);
    for (; i < count; ++i) narrow(in[i] * factor, out + i);
}

// e^x to within 2 units in the last place (range reduction and a polynomial, after Cephes); 0 below -87.
static inline vec exponential(vec x) {
    const vec low = splat(-87.3f), high = splat(88.3f);
    auto under = x < low;
    x = under ? low : x;
    x = x > high ? high : x;
    vec scaled = x * 1.44269504088896341f;
    typedef int32_t ivec __attribute__((vector_size(64)));
    ivec n = __builtin_convertvector(scaled + (scaled < 0.0f ? splat(-0.5f) : splat(0.5f)), ivec);
    vec whole = __builtin_convertvector(n, vec);
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = (n + 127) << 23;
    vec factor;
    std::memcpy(&factor, &power, sizeof factor);
    vec result = p * factor;
    return under ? vec{} : result;
}

}  // namespace sgl
