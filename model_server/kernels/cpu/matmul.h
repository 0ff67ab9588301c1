// Products of a few rows with packed matrices.
//
// An output is one chain of fused multiply-adds over the inputs in their order. What varies with the number of rows is
// only how many chains run side by side, never the chain.
#pragma once

#include <type_traits>

#include "crew.h"
#include "interface.h"
#include "vector.h"

namespace mimo {

constexpr int kPanel = 32;
constexpr int kScaleInputs = 128;
// A panel of so many inputs fits the second cache beside the one after it. Longer ones the processor fetches by itself.
constexpr int64_t kShortInputs = 1024;

struct Rows {
    const float* data;
    ptrdiff_t stride;
};

// A panel shows the two halves of its weights for one input after another, and fetches those of an input to come. Several
// rows take long enough over one panel for the next to arrive. One row takes what comes from memory as fast as it comes;
// where each panel is short, the processor learns too late where the next lies, and `kAhead` inputs are asked for. f32
// is long enough.

struct F32Panel {
    const float* weights;

    F32Panel(const MimoMatrix& matrix, int64_t panel)
        : weights((const float*)matrix.panels + panel * matrix.num_in * kPanel) {}
    MIMO_INLINE void enter(int64_t) {}
    static constexpr int64_t kAhead = 0;
    MIMO_INLINE void fetch(int64_t input) const {
        __builtin_prefetch(weights + input * kPanel);
        __builtin_prefetch(weights + input * kPanel + 16);
    }
    template <int parity>
    MIMO_INLINE void halves(int64_t input, v16& low, v16& high) const {
        low = load(weights + input * kPanel);
        high = load(weights + input * kPanel + 16);
    }
};

// A 32-bit lane holds a weight of the lower half and, above it, one of the upper half.
struct Bf16Panel {
    const int32_t* weights;

    Bf16Panel(const MimoMatrix& matrix, int64_t panel)
        : weights((const int32_t*)matrix.panels + panel * matrix.num_in * 16) {}
    MIMO_INLINE void enter(int64_t) {}
    static constexpr int64_t kAhead = 32;
    MIMO_INLINE void fetch(int64_t input) const { __builtin_prefetch(weights + input * 16); }
    template <int parity>
    MIMO_INLINE void halves(int64_t input, v16& low, v16& high) const {
        const v16 pairs = load((const float*)(weights + input * 16));
        low = each([&](int i) { return (Lanes)((Bits)pairs.part[i] << 16); });
        high = each([&](int i) { return (Lanes)((Bits)pairs.part[i] & (int32_t)0xffff0000); });
    }
};

// A 32-bit lane holds weights of both halves for an even input and for the odd one after it. Moved to an f32's place,
// the exponent of e4m3 is 120 too small, which the scales make up for; what is too small for e4m3's own exponent comes
// out right too. One product then rounds as value times scale does.
struct Fp8Panel {
    const int32_t* weights;
    const float* scales;
    v16 low_scale, high_scale;

    Fp8Panel(const MimoMatrix& matrix, int64_t panel)
        : weights((const int32_t*)matrix.panels + panel * ((matrix.num_in + 1) / 2) * 16),
          scales(matrix.scales + panel * ((matrix.num_in + kScaleInputs - 1) / kScaleInputs) * kPanel) {}
    MIMO_INLINE void enter(int64_t block) {
        low_scale = load(scales + block * kPanel);
        high_scale = load(scales + block * kPanel + 16);
    }
    static constexpr int64_t kAhead = 64;
    MIMO_INLINE void fetch(int64_t input) const { __builtin_prefetch(weights + input / 2 * 16); }
    template <int parity>
    MIMO_INLINE void halves(int64_t input, v16& low, v16& high) const {
        const v16 quads = load((const float*)(weights + input / 2 * 16));
        low = widened<24 - 16 * parity>(quads) * low_scale;
        high = widened<16 - 16 * parity>(quads) * high_scale;
    }
    template <int shift>
    static MIMO_INLINE v16 widened(v16 quads) {
        return each([&](int i) {
            const Bits raised = (Bits)quads.part[i] << shift;
            return (Lanes)((raised >> 4) & (int32_t)0x87f00000);
        });
    }
};

// A 32-bit lane holds an output's weights for an even input and for the odd one after it; the lower half of the outputs
// first, then the upper.
struct PairPanel {
    const int32_t* weights;

    PairPanel(const MimoMatrix& matrix, int64_t panel)
        : weights((const int32_t*)matrix.panels + panel * ((matrix.num_in + 1) / 2) * kPanel) {}
    static constexpr int64_t kAhead = 16;
    MIMO_INLINE void fetch(int64_t pair) const {
        __builtin_prefetch(weights + pair * kPanel);
        __builtin_prefetch(weights + pair * kPanel + 16);
    }
};

// Inputs as pairs of bf16.
struct PairRows {
    const int32_t* data;
    ptrdiff_t stride;
};

// What becomes of 32 outputs of a row. `count` is how many of them exist.

struct Store {
    float* out;
    ptrdiff_t stride;
    MIMO_INLINE void operator()(int64_t row, int64_t panel, int64_t count, v16 low, v16 high) const {
        float* to = out + row * stride + panel * kPanel;
        store_some(to, low, (int)count);
        if (count > 16) store_some(to + 16, high, (int)count - 16);
    }
};

struct Add {
    float* out;
    ptrdiff_t stride;
    MIMO_INLINE void operator()(int64_t row, int64_t panel, int64_t count, v16 low, v16 high) const {
        float* to = out + row * stride + panel * kPanel;
        store_some(to, load_some(to, (int)count) + low, (int)count);
        if (count > 16) store_some(to + 16, load_some(to + 16, (int)count - 16) + high, (int)count - 16);
    }
};

// Adds a share of row i to row `rows[i]`.
struct AddShare {
    float* out;
    ptrdiff_t stride;
    const int32_t* rows;
    const float* shares;
    MIMO_INLINE void operator()(int64_t row, int64_t panel, int64_t count, v16 low, v16 high) const {
        const v16 share = all(shares[row]);
        float* to = out + rows[row] * stride + panel * kPanel;
        store_some(to, fma(share, low, load_some(to, (int)count)), (int)count);
        if (count > 16)
            store_some(to + 16, fma(share, high, load_some(to + 16, (int)count - 16)), (int)count - 16);
    }
};

// Of matrices whose rows alternate: silu(gate) * up, rows padded to 16.
struct Gated {
    float* out;
    ptrdiff_t stride;
    MIMO_INLINE void operator()(int64_t row, int64_t panel, int64_t, v16 low, v16 high) const {
        store(out + row * stride + panel * 16, silu(low) * high);
    }
};

// How far ahead of the one at hand an input of `count` is fetched; 0: not at all.
template <int num_rows, class Panel>
MIMO_INLINE int64_t inputs_ahead(int64_t count, int64_t num_in) {
    if (num_rows == 1) return Panel::kAhead;
    return num_rows >= 3 && num_in <= kShortInputs ? count : 0;
}

template <int num_rows, int num_panels, class Panel>
MIMO_INLINE void accumulate(Panel (&panels)[num_panels], int64_t num_in, Rows x, v16 (&sums)[num_panels][num_rows][2]) {
    const int64_t ahead = inputs_ahead<num_rows, Panel>(num_in, num_in);
    const auto add = [&](auto parity, int64_t input) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int p = 0; p < num_panels; ++p) {
            v16 low, high;
            panels[p].template halves<decltype(parity)::value>(input, low, high);
            if (ahead) panels[p].fetch(input + ahead);
#pragma GCC unroll 16
            for (int r = 0; r < num_rows; ++r) {
                const v16 value = all(x.data[r * x.stride + input]);
                sums[p][r][0] = fma(low, value, sums[p][r][0]);
                sums[p][r][1] = fma(high, value, sums[p][r][1]);
            }
        }
    };
    const std::integral_constant<int, 0> even;
    const std::integral_constant<int, 1> odd;
    for (int64_t first = 0; first < num_in; first += kScaleInputs) {
        const int64_t end = first + kScaleInputs < num_in ? first + kScaleInputs : num_in;
        for (int p = 0; p < num_panels; ++p) panels[p].enter(first / kScaleInputs);
        int64_t input = first;
        for (; input + 2 <= end; input += 2) {
            add(even, input);
            add(odd, input + 1);
        }
        if (input < end) add(even, input);
    }
}

// Rows [0, num_rows) times panels [panel, panel + num_panels), to `out` [num_panels, num_rows, 32].
template <int num_rows, int num_panels, class Panel>
__attribute__((noinline)) void multiply_tile(const MimoMatrix& matrix, int64_t panel, Rows x, float* out) {
    v16 sums[num_panels][num_rows][2] = {};
    if constexpr (num_panels == 1) {
        Panel panels[1] = {Panel(matrix, panel)};
        accumulate<num_rows>(panels, matrix.num_in, x, sums);
    } else {
        Panel panels[2] = {Panel(matrix, panel), Panel(matrix, panel + 1)};
        accumulate<num_rows>(panels, matrix.num_in, x, sums);
    }
    for (int p = 0; p < num_panels; ++p)
        for (int r = 0; r < num_rows; ++r) {
            store(out + (p * num_rows + r) * kPanel, sums[p][r][0]);
            store(out + (p * num_rows + r) * kPanel + 16, sums[p][r][1]);
        }
}

#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;

// a * b + c of two pairs to one sum.
MIMO_INLINE Lanes paired(Lanes sum, const int32_t* weights, int32_t value) {
    const __m512i pairs = _mm512_loadu_si512(weights);
    return _mm512_dpbf16_ps(sum, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(value));
}

template <int num_rows, int num_panels>
__attribute__((noinline)) void multiply_pairs(const MimoMatrix& matrix, int64_t panel, PairRows x, float* out) {
    v16 sums[num_panels][num_rows][2] = {};
    const int64_t num_pairs = (matrix.num_in + 1) / 2;
    const int64_t ahead = inputs_ahead<num_rows, PairPanel>(num_pairs, matrix.num_in);
    const int32_t* weights[num_panels];
    for (int p = 0; p < num_panels; ++p) weights[p] = PairPanel(matrix, panel + p).weights;
    for (int64_t pair = 0; pair < num_pairs; ++pair) {
#pragma GCC unroll 4
        for (int p = 0; p < num_panels; ++p) {
            const int32_t* at = weights[p] + pair * kPanel;
            if (ahead) PairPanel{matrix, panel + p}.fetch(pair + ahead);
#pragma GCC unroll 16
            for (int r = 0; r < num_rows; ++r) {
                const int32_t value = x.data[r * x.stride + pair];
                sums[p][r][0].part[0] = paired(sums[p][r][0].part[0], at, value);
                sums[p][r][1].part[0] = paired(sums[p][r][1].part[0], at + 16, value);
            }
        }
    }
    for (int p = 0; p < num_panels; ++p)
        for (int r = 0; r < num_rows; ++r) {
            store(out + (p * num_rows + r) * kPanel, sums[p][r][0]);
            store(out + (p * num_rows + r) * kPanel + 16, sums[p][r][1]);
        }
}

MIMO_INLINE void to_pairs(const float* from, int64_t count, int32_t* to) {
    for (int64_t i = 0; i < count; i += 32) {
        const int some = (int)(count - i < 32 ? count - i : 32);
        const v16 low = load_some(from + i, some), high = some > 16 ? load_some(from + i + 16, some - 16) : v16{};
        const __m512bh both = _mm512_cvtne2ps_pbh(high.part[0], low.part[0]);
        _mm512_storeu_si512(to + i / 2, (__m512i)both);
    }
}
#else
constexpr bool kHasPairs = false;
#endif

constexpr int kTileRows = kAccumulators / 2;  // rows of one panel that fit the registers
constexpr int kWide = 2;                      // panels side by side for one row

// Products of inputs as they are with panels of one kind, or of pairs.
template <class Panel>
struct Product {
    using Inputs = Rows;
    template <int num_rows, int num_panels>
    static void multiply(const MimoMatrix& matrix, int64_t panel, Rows x, float* out) {
        multiply_tile<num_rows, num_panels, Panel>(matrix, panel, x, out);
    }
};

#if defined(__AVX512BF16__)
template <>
struct Product<PairPanel> {
    using Inputs = PairRows;
    template <int num_rows, int num_panels>
    static void multiply(const MimoMatrix& matrix, int64_t panel, PairRows x, float* out) {
        multiply_pairs<num_rows, num_panels>(matrix, panel, x, out);
    }
};
#endif

template <class Panel, class Inputs>
void multiply_rows(const MimoMatrix& matrix, int64_t panel, Inputs x, int num_rows, float* out) {
    const auto tile = [&](auto count) {
        if constexpr (decltype(count)::value <= kTileRows)
            Product<Panel>::template multiply<decltype(count)::value, 1>(matrix, panel, x, out);
    };
    switch (num_rows) {
#define MIMO_ROWS(n) \
    case n: return tile(std::integral_constant<int, n>{})
        MIMO_ROWS(1);
        MIMO_ROWS(2);
        MIMO_ROWS(3);
        MIMO_ROWS(4);
        MIMO_ROWS(5);
        MIMO_ROWS(6);
        MIMO_ROWS(7);
        MIMO_ROWS(8);
        MIMO_ROWS(9);
        MIMO_ROWS(10);
        MIMO_ROWS(11);
        MIMO_ROWS(12);
#undef MIMO_ROWS
    }
}

template <class Result>
void deliver(const MimoMatrix& matrix, int64_t panel, int num_panels, int64_t row, int num_rows, const float* sums,
             const Result& result) {
    for (int p = 0; p < num_panels; ++p)
        for (int r = 0; r < num_rows; ++r, sums += kPanel)
            result(row + r, panel + p, matrix.num_out - (panel + p) * kPanel, load(sums), load(sums + 16));
}

template <class Panel, class Inputs, class Result>
void multiply_panel(const MimoMatrix& matrix, int64_t panel, Inputs x, int64_t num_rows, const Result& result) {
    alignas(64) float sums[kTileRows * kPanel];
    const int64_t num_tiles = (num_rows + kTileRows - 1) / kTileRows;
    for (int64_t tile = 0, row = 0; tile < num_tiles; ++tile) {
        const int64_t end = num_rows * (tile + 1) / num_tiles;
        multiply_rows<Panel>(matrix, panel, Inputs{x.data + row * x.stride, x.stride}, (int)(end - row), sums);
        deliver(matrix, panel, 1, row, (int)(end - row), sums, result);
        row = end;
    }
}

// Panels [panel, end).
template <class Panel, class Inputs, class Result>
void multiply_as_stored(const MimoMatrix& matrix, int64_t panel, int64_t end, Inputs x, int64_t num_rows,
                        const Result& result) {
    alignas(64) float sums[2 * kWide * kPanel];
    const auto side_by_side = [&](auto rows) {
        for (; panel + kWide <= end; panel += kWide) {
            Product<Panel>::template multiply<decltype(rows)::value, kWide>(matrix, panel, x, sums);
            deliver(matrix, panel, kWide, 0, decltype(rows)::value, sums, result);
        }
    };
    if (num_rows == 1) side_by_side(std::integral_constant<int, 1>{});
    if (num_rows == 2 && kAccumulators >= 16) side_by_side(std::integral_constant<int, 2>{});
    for (; panel < end; ++panel) multiply_panel<Panel>(matrix, panel, x, num_rows, result);
}

inline void widen(const MimoMatrix& matrix, int64_t number, float* to) {
    Fp8Panel panel(matrix, number);
    for (int64_t input = 0; input < matrix.num_in; ++input) {
        if (input % kScaleInputs == 0) panel.enter(input / kScaleInputs);
        v16 low, high;
        if (input % 2 == 0)
            panel.halves<0>(input, low, high);
        else
            panel.halves<1>(input, low, high);
        store(to + input * kPanel, low);
        store(to + input * kPanel + 16, high);
    }
}

// FP8 is widened once for many rows; bf16 costs less to widen in registers than to load when it is twice as long.
template <class Result>
void multiply_fp8(const MimoMatrix& matrix, int64_t panel, int64_t end, Rows x, int64_t num_rows, const Result& result,
                  float* widened) {
    if (num_rows <= 2 * kTileRows) return multiply_as_stored<Fp8Panel>(matrix, panel, end, x, num_rows, result);
    for (; panel < end; ++panel) {
        widen(matrix, panel, widened);
        // Counted back by whole panels, so that `panel` of this matrix is where the widened one lies.
        MimoMatrix one = matrix;
        one.panels = widened - panel * matrix.num_in * kPanel;
        multiply_panel<F32Panel>(one, panel, x, num_rows, result);
    }
}

// Who multiplies, and where each has room for a widened panel; and room for the inputs as pairs.
struct Hands {
    Crew& crew;
    float* widened;
    ptrdiff_t stride;
    int32_t* pairs;
};

constexpr int64_t kChunkProducts = 1 << 16;  // about a microsecond: what it takes to claim a chunk is little beside it

// x [num_rows, num_in] times the matrix, transposed. A result is delivered by whoever has the panel.
template <class Result>
void multiply(const MimoMatrix& matrix, Rows x, int64_t num_rows, const Result& result, const Hands& hands) {
    if (num_rows == 0) return;
    const int64_t few = kChunkProducts / (num_rows * matrix.num_in * kPanel) / kWide * kWide;
    const int64_t chunk = few ? few : num_rows <= 2 ? kWide : 1;
    const PairRows pairs{hands.pairs, (matrix.num_in + 31) / 32 * 16};
#if defined(__AVX512BF16__)
    if (matrix.storage == kBf16Pairs)
        for (int64_t row = 0; row < num_rows; ++row)
            to_pairs(x.data + row * x.stride, matrix.num_in, hands.pairs + row * pairs.stride);
#endif
    hands.crew.each((matrix.num_out + kPanel - 1) / kPanel, chunk, [&](int64_t panel, int64_t end, int lane) {
        switch (matrix.storage) {
            case kF32: return multiply_as_stored<F32Panel>(matrix, panel, end, x, num_rows, result);
            case kBf16: return multiply_as_stored<Bf16Panel>(matrix, panel, end, x, num_rows, result);
            case kFp8:
                return multiply_fp8(matrix, panel, end, x, num_rows, result, hands.widened + lane * hands.stride);
            case kBf16Pairs:
                if constexpr (kHasPairs) multiply_as_stored<PairPanel>(matrix, panel, end, pairs, num_rows, result);
                return;
        }
    });
}

}  // namespace mimo
