// Threads that help one leader through the phases of a step.
//
// The leader walks through the phases; each is a number of pieces that anybody may take. A phase is over when all its
// pieces are done, not when all threads have come by: a helper that the system has put aside costs nothing unless it
// holds a piece. That matters on machines where other work shares the cores. Idle helpers spin for a moment, because the
// next phase is a microsecond away, then yield, and sleep when no step follows.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <sched.h>

namespace sgl {

static inline void relax(int& spins) {
    if (++spins < 2000) {
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
        for (int id = 1; id < count; ++id) std::thread([this, id] { help(id); }).detach();
    }

    int count() const { return count_; }

    // Held for a whole step: one leader at a time. Wakes sleeping helpers; they stay awake a little after its end.
    class Lead {
      public:
        explicit Lead(Pool& pool) : pool_(pool), held_(pool.leader_) {
            std::lock_guard<std::mutex> guard(pool.mutex_);
            pool.leading_.store(true, std::memory_order_relaxed);
            if (pool.asleep_ > 0) pool.wake_.notify_all();
        }
        ~Lead() {
            pool_.last_step_.store(now(), std::memory_order_relaxed);
            pool_.leading_.store(false, std::memory_order_release);
        }

      private:
        Pool& pool_;
        std::lock_guard<std::mutex> held_;
    };

    // body(index, thread) for every index in [0, total), handed out `piece` at a time; returns when all are done.
    template <class Body> void parallel(long total, long piece, Body&& body) {
        long pieces = (total + piece - 1) / piece;
        if (count_ == 1 || pieces <= 1) {
            for (long i = 0; i < total; ++i) body(i, 0);
            return;
        }
        while (pieces >= LIMIT) piece *= 2, pieces = (total + piece - 1) / piece;
        Phase& phase = phases_[++current_ % PHASES];
        phase.total = total;
        phase.piece = piece;
        phase.body = &body;
        phase.call = [](void* held, long i, int id) { (*static_cast<std::remove_reference_t<Body>*>(held))(i, id); };
        phase.done.store(0, std::memory_order_relaxed);
        // ticket: phase number (16 bits), its pieces (24), the next piece to take (24)
        ticket_.store(current_ << 48 | uint64_t(pieces) << 24, std::memory_order_release);
        while (take(0)) {
        }
        for (int spins = 0; phase.done.load(std::memory_order_acquire) < pieces;) relax(spins);
    }

  private:
    static constexpr long LIMIT = 1 << 23;
    static constexpr int PHASES = 4;

    struct alignas(64) Phase {
        long total = 0, piece = 1;
        void* body = nullptr;
        void (*call)(void*, long, int) = nullptr;
        alignas(64) std::atomic<long> done{0};
    };

    static bool left(uint64_t ticket) { return (ticket & 0xffffff) < (ticket >> 24 & 0xffffff); }

    // Do one piece of whatever phase is open. Whoever holds a piece keeps its phase open, so the phase's fields stand.
    bool take(int id) {
        if (!left(ticket_.load(std::memory_order_relaxed))) return false;
        uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acquire);
        if (!left(ticket)) return false;
        Phase& phase = phases_[(ticket >> 48) % PHASES];
        long start = long(ticket & 0xffffff) * phase.piece;
        long end = start + phase.piece < phase.total ? start + phase.piece : phase.total;
        for (long i = start; i < end; ++i) phase.call(phase.body, i, id);
        phase.done.fetch_add(1, std::memory_order_release);
        return true;
    }

    static int64_t now() {
        return std::chrono::duration_cast<std::chrono::microseconds>(
                   std::chrono::steady_clock::now().time_since_epoch())
            .count();
    }

    void help(int id) {
        for (int spins = 0;;) {
            if (take(id)) {
                spins = 0;
                continue;
            }
            relax(spins);
            if (spins % 256 == 0 && idle()) sleep();
        }
    }

    bool idle() const {
        return !leading_.load(std::memory_order_acquire) &&
               now() - last_step_.load(std::memory_order_relaxed) > AWAKE_US;
    }

    void sleep() {
        std::unique_lock<std::mutex> guard(mutex_);
        ++asleep_;
        wake_.wait(guard, [&] { return !idle(); });
        --asleep_;
    }

    static constexpr int64_t AWAKE_US = 300;

    int count_;
    std::mutex leader_, mutex_;
    std::condition_variable wake_;
    int asleep_ = 0;
    uint64_t current_ = 0;
    Phase phases_[PHASES];
    std::atomic<int64_t> last_step_{0};
    std::atomic<bool> leading_{false};
    alignas(64) std::atomic<uint64_t> ticket_{0};
};

}  // namespace sgl
