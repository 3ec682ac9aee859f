// A pool of threads that stays awake between the phases of a step and goes to sleep between steps.
//
// A step is one `run`: every thread executes the same function and meets the others at barriers, hundreds of times per
// step, so a barrier must cost a fraction of a microsecond. Waiting threads spin, then yield (other work may share the
// core); an idle worker sleeps on a condition variable after a short spin.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <sched.h>

namespace sgl {

static inline void relax(int& spins) {
    if (++spins < 4000) {
#if defined(__x86_64__)
        _mm_pause();
#endif
    } else {
        sched_yield();
    }
}

class Pool {
  public:
    explicit Pool(int count) : count_(count) {
        for (int id = 1; id < count; ++id) std::thread([this, id] { work(id); }).detach();
    }

    int count() const { return count_; }

    // Run job(id) on all threads, the caller being thread 0, and return when all are done.
    template <class Job> void run(Job&& job) {
        std::lock_guard<std::mutex> one_at_a_time(running_job_);
        next_.store(0, std::memory_order_relaxed);
        if (count_ == 1) return job(0);
        std::function<void(int)> held = std::ref(job);
        job_ = &held;
        running_.store(count_ - 1, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> guard(mutex_);
            epoch_.fetch_add(1, std::memory_order_release);
        }
        if (asleep_.load() > 0) wake_.notify_all();
        job(0);
        for (int spins = 0; running_.load(std::memory_order_acquire) > 0;) relax(spins);
    }

    // All threads of the running job meet here. The last one to arrive sets the work counter back.
    void barrier() {
        if (count_ == 1) {
            next_.store(0, std::memory_order_relaxed);
            return;
        }
        unsigned phase = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase_.load(std::memory_order_acquire) == phase;) relax(spins);
    }

    // Hand out [0, total) in pieces of `piece` until none is left; threads that are late simply get less.
    template <class Body> void share(long total, long piece, Body&& body) {
        for (;;) {
            long start = next_.fetch_add(piece, std::memory_order_relaxed);
            if (start >= total) return;
            long end = start + piece < total ? start + piece : total;
            for (long i = start; i < end; ++i) body(i);
        }
    }

  private:
    void work(int id) {
        unsigned long seen = 0;
        for (;;) {
            wait_for_job(seen);
            ++seen;
            (*job_)(id);
            running_.fetch_sub(1, std::memory_order_release);
        }
    }

    void wait_for_job(unsigned long seen) {
        auto start = std::chrono::steady_clock::now();
        for (int spins = 0; epoch_.load(std::memory_order_acquire) == seen;) {
            relax(spins);
            if (spins % 64) continue;
            if (std::chrono::steady_clock::now() - start < std::chrono::microseconds(200)) continue;
            std::unique_lock<std::mutex> guard(mutex_);
            asleep_.fetch_add(1);
            wake_.wait(guard, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
            asleep_.fetch_sub(1);
        }
    }

    int count_;
    const std::function<void(int)>* job_ = nullptr;
    std::mutex mutex_, running_job_;
    std::condition_variable wake_;
    alignas(64) std::atomic<unsigned long> epoch_{0};
    alignas(64) std::atomic<int> running_{0};
    alignas(64) std::atomic<int> asleep_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<unsigned> phase_{0};
    alignas(64) std::atomic<long> next_{0};
};

}  // namespace sgl
