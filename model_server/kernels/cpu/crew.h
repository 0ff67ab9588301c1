// Threads that help with a step where that makes it faster.
//
// Work is cut into chunks, and whoever is free claims the next. The caller can do all of them, and waits for nobody but
// those who have claimed a chunk and not finished it. Who runs a chunk changes no sum, so results are the same bits with
// any number of threads.
//
// A helper that shares its processor with somebody may stop for milliseconds in the middle of a chunk. So help is tried:
// a few steps alone, as many together, and what is faster is kept for a while: together if all of those steps took less
// than as many of the fastest alone. Who kept the caller waiting rests, each time for longer.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace mimo {

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Crew {
public:
    explicit Crew(int num_threads) {
        for (int lane = 1; lane < num_threads; ++lane) helpers_.emplace_back([this, lane] { help(lane); });
    }

    ~Crew() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            is_ending_ = true;
        }
        wake_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

    int num_threads() const { return (int)helpers_.size() + 1; }

    // Between the two, chunks are shared if help is worth it. Steps of as many rows are compared.
    void begin(int64_t num_rows) {
        if (helpers_.empty()) return;
        began_ = now();
        if (num_rows != num_rows_) begin_trial(num_rows);
        is_helped_ = phase_ == Phase::together || phase_ == Phase::kept;
        if (!is_helped_) return;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ++num_steps_;
            is_open_.store(true, std::memory_order_relaxed);
        }
        wake_.notify_all();
    }

    void end() {
        if (helpers_.empty()) return;
        is_open_.store(false, std::memory_order_relaxed);
        is_helped_ = false;
        const int64_t spent = now() - began_;
        switch (phase_) {
            case Phase::alone:
                if (num_tried_ == 0 || kTries * spent < alone_) alone_ = kTries * spent;
                if (++num_tried_ == kTries) turn(Phase::together);
                return;
            case Phase::together:
                together_ += spent;
                if (has_stalled_) return rest();
                if (++num_tried_ < kTries) return;
                if (together_ > kWorthIt * alone_) return rest();
                rest_ = kShortestRest;
                return turn(Phase::kept);
            case Phase::kept:
                if (has_stalled_) return rest();
                if (++num_tried_ == kKept) begin_trial(num_rows_);
                return;
            case Phase::resting:
                if (began_ > rest_end_) begin_trial(num_rows_);
                return;
        }
    }

    // Calls work(first, end, lane) so that every number below `count` is covered once, in chunks of `chunk`, by any
    // thread; lane 0 is the caller's. Returns when all is done.
    template <class Work>
    void each(int64_t count, int64_t chunk, const Work& work) {
        if (!is_helped_ || count <= chunk) return work((int64_t)0, count, 0);
        const int64_t num_chunks = (count + chunk - 1) / chunk;
        open(count, chunk, &work, [](const void* what, int64_t first, int64_t end, int lane) {
            (*(const Work*)what)(first, end, lane);
        });
        int64_t num_own = 0;
        for (;; ++num_own) {
            const int64_t index = ticket_.fetch_add(1, std::memory_order_relaxed) & kIndex;
            if (index >= num_chunks) break;
            run(index, 0);
        }
        wait(num_chunks - num_own);
    }

private:
    using Run = void (*)(const void*, int64_t, int64_t, int);
    enum class Phase { alone, together, kept, resting };

    static constexpr int kTries = 4, kKept = 256;
    static constexpr double kWorthIt = 0.97;
    static constexpr int64_t kShortestRest = 100'000'000, kLongestRest = 3'200'000'000, kStall = 100'000;  // ns
    static constexpr int kSpins = 2000;  // tens of microseconds: what lies between two pieces of work of a step
    static constexpr uint64_t kIndex = 0xffffffff, kGeneration = kIndex + 1;

    static int64_t now() {
        const auto since = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
    }

    // Closed with a new generation before anything changes, so that nobody claims a chunk by what was read before.
    void open(int64_t count, int64_t chunk, const void* work, Run run) {
        const uint64_t generation = (ticket_.load(std::memory_order_relaxed) & ~kIndex) + kGeneration;
        ticket_.store(generation | (kIndex >> 1), std::memory_order_seq_cst);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        count_.store(count, std::memory_order_relaxed);
        chunk_.store(chunk, std::memory_order_relaxed);
        work_.store(work, std::memory_order_relaxed);
        run_.store(run, std::memory_order_relaxed);
        num_finished_.store(0, std::memory_order_relaxed);
        ticket_.store(generation, std::memory_order_release);
    }

    void run(int64_t index, int lane) const {
        const int64_t chunk = chunk_.load(std::memory_order_relaxed), count = count_.load(std::memory_order_relaxed);
        const int64_t first = index * chunk, end = first + chunk < count ? first + chunk : count;
        run_.load(std::memory_order_relaxed)(work_.load(std::memory_order_relaxed), first, end, lane);
    }

    // Until so many chunks are finished by others.
    void wait(int64_t num_others) {
        const auto done = [&] { return num_finished_.load(std::memory_order_acquire) >= num_others; };
        for (int spin = 0; spin < kSpins; ++spin) {
            if (done()) return;
            pause();
        }
        const int64_t started = now();
        while (!done()) std::this_thread::yield();  // the helper may need this very processor
        has_stalled_ |= now() - started > kStall;
    }

    void help(int lane) {
        uint64_t num_seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return is_ending_ || num_steps_ != num_seen; });
                if (is_ending_) return;
                num_seen = num_steps_;
            }
            for (int spin = 0; spin < kSpins && is_open_.load(std::memory_order_relaxed); ++spin) {
                if (take(lane)) spin = 0;
                pause();
            }
        }
    }

    // One chunk, if there is one.
    bool take(int lane) {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        const int64_t count = count_.load(std::memory_order_relaxed), chunk = chunk_.load(std::memory_order_relaxed);
        const int64_t index = (int64_t)(ticket & kIndex);
        std::atomic_thread_fence(std::memory_order_acquire);  // of new numbers, the claim below must see the ticket
        if (chunk == 0 || index * chunk >= count) return false;
        if (!ticket_.compare_exchange_strong(ticket, ticket + 1, std::memory_order_acq_rel)) return false;
        run(index, lane);
        num_finished_.fetch_add(1, std::memory_order_release);
        return true;
    }

    void begin_trial(int64_t num_rows) {
        num_rows_ = num_rows;
        if (phase_ == Phase::resting && began_ <= rest_end_) return;
        alone_ = together_ = 0;
        turn(Phase::alone);
    }

    void turn(Phase phase) {
        phase_ = phase;
        num_tried_ = 0;
        has_stalled_ = false;
    }

    void rest() {
        rest_end_ = now() + rest_;
        rest_ = rest_ < kLongestRest / 2 ? 2 * rest_ : kLongestRest;
        turn(Phase::resting);
    }

    // Of the work at hand. The ticket is its generation and the next chunk.
    std::atomic<uint64_t> ticket_{kIndex >> 1};
    std::atomic<int64_t> count_{0}, chunk_{0}, num_finished_{0};
    std::atomic<const void*> work_{nullptr};
    std::atomic<Run> run_{nullptr};

    std::mutex mutex_;
    std::condition_variable wake_;
    uint64_t num_steps_ = 0;  // in which help is wanted
    bool is_ending_ = false;
    std::atomic<bool> is_open_{false};

    // The caller's own.
    Phase phase_ = Phase::alone;
    int num_tried_ = 0;
    bool is_helped_ = false, has_stalled_ = false;
    int64_t num_rows_ = 0, began_ = 0, alone_ = 0, together_ = 0, rest_ = kShortestRest, rest_end_ = 0;
    std::vector<std::thread> helpers_;  // last: they use the rest
};

}  // namespace mimo
