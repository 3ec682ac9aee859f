// The functions that Python calls.
#include <sys/mman.h>
#include <unistd.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "bitmask.h"
#include "decoder.h"

using namespace sgl;

#define EXPORT extern "C" __attribute__((visibility("default")))

// One pool for the process: two would fight for the cores. Never destroyed, for its threads wait in it.
static Pool* shared_pool(int threads) {
    static std::mutex mutex;
    static Pool* pool = nullptr;
    std::lock_guard<std::mutex> guard(mutex);
    if (!pool || pool->count() != threads) pool = new Pool(threads);
    return pool;
}

EXPORT int64_t sgl_packed_size(int64_t rows, int64_t depth) { return round_up(rows, COLUMNS) * depth; }

EXPORT int64_t sgl_features() {
    int64_t found = 0;
#if defined(SGL_AVX512)
    found |= 1;
#endif
#if defined(SGL_AVX512_BF16)
    found |= 2;
#endif
    return found;
}

// Ask for huge pages, which halves the cost of address translation when gigabytes of weights stream by.
EXPORT void sgl_advise(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), start = (uintptr_t(data) + page - 1) / page * page;
    uintptr_t end = (uintptr_t(data) + uintptr_t(bytes)) / page * page;
    if (end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
}

EXPORT void sgl_pack(const void* source, int64_t rows, int64_t depth, const int64_t* map, void* out, int64_t padded_depth,
                     int32_t bytes) {
    if (bytes == 2)
        pack(static_cast<const bf16*>(source), rows, depth, map, static_cast<bf16*>(out), padded_depth);
    else
        pack(static_cast<const float*>(source), rows, depth, map, static_cast<float*>(out), padded_depth);
}

EXPORT void* sgl_decoder_new(const SglConfig* config, const SglLayer* layers, int32_t bytes) {
#if defined(__GLIBC__)
    // Logits of a batch are megabytes: taken anew from the system at every step, their pages would be cleared each time.
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
    Pool* pool = shared_pool(config->threads);
    Stepper* made = nullptr;
    if (bytes == 2)
        made = new Decoder<bf16>(*config, layers, *pool);
    else
        made = new Decoder<float>(*config, layers, *pool);
    return made;
}

EXPORT void sgl_decoder_free(void* decoder) { delete static_cast<Stepper*>(decoder); }

// 0, or -1 for a step that points outside the model's tables.
EXPORT int32_t sgl_decoder_step(void* decoder, const SglStep* step, float* logits) {
    return static_cast<Stepper*>(decoder)->step(*step, logits);
}

EXPORT void sgl_bitmask(float* logits, int64_t rows, int64_t width, int64_t stride, const int32_t* masks, int64_t words,
                        const int64_t* index) {
    for (int64_t r = 0; r < rows; ++r)
        if (index[r] >= 0) mask_row(logits + r * stride, masks + index[r] * words, width);
}
