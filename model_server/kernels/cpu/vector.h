// Sixteen floats at once, on whatever registers the compiler was told to use.
//
// Every sum of this library is made of these operations in an order that depends on neither the number of rows nor the
// width of a register, so a row's result is the same bit for bit alone, in a batch, and on AVX2 or AVX-512.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mimo {

#define MIMO_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kParts = 16 / kLanes;

using Lanes = float __attribute__((vector_size(4 * kLanes)));
using Bits = int32_t __attribute__((vector_size(4 * kLanes)));
using Lanes4 = float __attribute__((vector_size(16)));

// v16 values that fit into the register file beside the operands they are made of.
constexpr int kAccumulators = kLanes == 16 ? 24 : 6;

// a * b + c with one rounding. The build forbids the compiler to fuse on its own, here and there.
MIMO_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#else
    for (int i = 0; i < kLanes; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

struct v16 {
    Lanes part[kParts];
};

template <class Operation>
MIMO_INLINE v16 each(Operation operation) {
    v16 result;
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) result.part[i] = operation(i);
    return result;
}

MIMO_INLINE v16 all(float x) {
    return each([=](int) { return x - Lanes{}; });
}
MIMO_INLINE v16 operator+(v16 a, v16 b) {
    return each([&](int i) { return a.part[i] + b.part[i]; });
}
MIMO_INLINE v16 operator-(v16 a, v16 b) {
    return each([&](int i) { return a.part[i] - b.part[i]; });
}
MIMO_INLINE v16 operator*(v16 a, v16 b) {
    return each([&](int i) { return a.part[i] * b.part[i]; });
}
MIMO_INLINE v16 operator/(v16 a, v16 b) {
    return each([&](int i) { return a.part[i] / b.part[i]; });
}
MIMO_INLINE v16 fma(v16 a, v16 b, v16 c) {
    return each([&](int i) { return fused(a.part[i], b.part[i], c.part[i]); });
}
MIMO_INLINE v16 max(v16 a, v16 b) {
    return each([&](int i) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}
MIMO_INLINE v16 min(v16 a, v16 b) {
    return each([&](int i) { return a.part[i] < b.part[i] ? a.part[i] : b.part[i]; });
}

MIMO_INLINE v16 load(const float* from) {
    v16 result;
    std::memcpy(&result, from, sizeof result);
    return result;
}
MIMO_INLINE void store(float* to, v16 x) { std::memcpy(to, &x, sizeof x); }

// bf16 is the upper half of an f32.
MIMO_INLINE v16 load(const uint16_t* from) {
#if defined(__AVX512F__)  // the compiler takes four instructions more
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
    return v16{{(Lanes)_mm512_slli_epi32(wide, 16)}};
#else
    using Halves = uint16_t __attribute__((vector_size(2 * kLanes)));
    return each([=](int i) {
        Halves halves;
        std::memcpy(&halves, from + i * kLanes, sizeof halves);
        return (Lanes)(__builtin_convertvector(halves, Bits) << 16);
    });
#endif
}

// The first `count` values; zeros behind them.
template <class Stored>
MIMO_INLINE v16 load_some(const Stored* from, int count) {
    if (count >= 16) return load(from);
    Stored values[16] = {};
    std::memcpy(values, from, count * sizeof(Stored));
    return load(values);
}
MIMO_INLINE void store_some(float* to, v16 x, int count) {
    if (count >= 16) return store(to, x);
    float values[16];
    store(values, x);
    std::memcpy(to, values, count * sizeof(float));
}

template <class Fold>
MIMO_INLINE float folded(v16 x, Fold fold) {
    float values[16];
    store(values, x);
    Lanes4 quarters[4];
    std::memcpy(quarters, values, sizeof quarters);
    Lanes4 rest = fold(fold(quarters[0], quarters[2]), fold(quarters[1], quarters[3]));
    Lanes4 crossed = {rest[2], rest[3], rest[0], rest[1]};
    Lanes4 pair = fold(rest, crossed);
    Lanes4 swapped = {pair[1], pair[0], pair[3], pair[2]};
    return fold(pair, swapped)[0];
}
MIMO_INLINE float sum(v16 x) {
    return folded(x, [](Lanes4 a, Lanes4 b) { return a + b; });
}
MIMO_INLINE float largest(v16 x) {
    return folded(x, [](Lanes4 a, Lanes4 b) { return a > b ? a : b; });
}

// 2^x for x in [-126, 126], and the value at the nearer end outside. Exactly 1 at 0; relative error below 2e-7.
MIMO_INLINE v16 exp2(v16 x) {
    const v16 bounded = min(max(x, all(-126.0f)), all(126.0f));
    const v16 shifter = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, held in the lowest bits
    const v16 shifted = bounded + shifter;
    const v16 f = bounded - (shifted - shifter);
    v16 p = all(0.00015461448f);
    p = fma(p, f, all(0.00133908668f));
    p = fma(p, f, all(0.00961805694f));
    p = fma(p, f, all(0.05550356954f));
    p = fma(p, f, all(0.24022650719f));
    p = fma(p, f, all(0.69314718246f));
    p = fma(p, f, all(1.0f));
    return each([&](int i) { return (Lanes)((Bits)p.part[i] + ((Bits)shifted.part[i] << 23)); });
}

constexpr float kLog2E = 1.44269504088896341f;

// x / (1 + e^-x)
MIMO_INLINE v16 silu(v16 x) { return x / (all(1.0f) + exp2(x * all(-kLog2E))); }

MIMO_INLINE uint16_t to_bf16(float x) {  // to the nearest, ties to even; keeps not-a-number
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
MIMO_INLINE void put(float* to, float x) { *to = x; }
MIMO_INLINE void put(uint16_t* to, float x) { *to = to_bf16(x); }

}  // namespace mimo
