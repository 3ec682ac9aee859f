// A grammar's bit mask on a row of logits.
#pragma once
#include <limits>

#include "numbers.h"

namespace sgl {

// logits[j] = -inf where bit j is 0. Words of only ones cost one comparison; words of zeros only writes.
static inline void mask_row(float* logits, const int32_t* mask, int64_t width) {
    const float forbidden = -std::numeric_limits<float>::infinity();
    int64_t words = width / 32;
    for (int64_t w = 0; w < words; ++w) {
        uint32_t bits = uint32_t(mask[w]);
        float* out = logits + 32 * w;
        if (bits == 0xffffffffu) continue;
#if defined(SGL_AVX512)
        __m512 fill = _mm512_set1_ps(forbidden);
        _mm512_mask_storeu_ps(out, __mmask16(~bits), fill);
        _mm512_mask_storeu_ps(out + 16, __mmask16(~bits >> 16), fill);
#else
        for (int j = 0; j < 32; ++j) out[j] = (bits >> j) & 1 ? out[j] : forbidden;
#endif
    }
    for (int64_t j = 32 * words; j < width; ++j)
        if (!((uint32_t(mask[j / 32]) >> (j % 32)) & 1)) logits[j] = forbidden;
}

}  // namespace sgl
