// Attention of a tile of rows of one sequence over its keys, where they lie.
//
// Keys are walked in spans of 64 positions aligned to position 0, with a running softmax: per row and span the largest
// score, then the weights and the values in the order of positions. Keys a row does not see weigh exactly 0, so what a
// row computes depends on its position and its keys only. Scores are in units of log 2.
#pragma once

#include <type_traits>

#include "interface.h"
#include "vector.h"

namespace mimo {

constexpr int kBlock = 16;
constexpr int kSpan = 64;
constexpr int kSpanBlocks = kSpan / kBlock;
constexpr int kPageBlocks = 4;
constexpr int kTile = 32;
constexpr int kQueries = kAccumulators >= 16 ? 8 : 4;  // that go over a span together
// v16 sums side by side, which leaves registers for what they are made of.
constexpr int kSums = kAccumulators / 3 * 2;
// Below every score, and finite: differences of them stay numbers. A row that has seen nothing yet is above what it
// does not see.
constexpr float kUnseen = -1e30f;
constexpr float kNothingYet = -1e29f;
constexpr int kLine = 64;  // bytes that come from memory together

// Where the keys and values of one sequence, layer and group lie.
template <class Stored>
struct Keys {
    const Stored *k, *v;       // in page or slot 0
    ptrdiff_t k_unit, v_unit;  // values from a page to the next
    int64_t qk_dim, v_dim;
    const int32_t* pages;      // null: a ring
    int64_t num_blocks;        // of the ring

    MIMO_INLINE void find(int64_t block, int64_t& unit, int64_t& within) const {
        unit = pages ? pages[block / kPageBlocks] : 0;
        within = pages ? block % kPageBlocks : block % num_blocks;
    }
    MIMO_INLINE const Stored* keys(int64_t block) const {
        int64_t unit, within;
        find(block, unit, within);
        return k + unit * k_unit + within * kBlock * qk_dim;
    }
    MIMO_INLINE const Stored* values(int64_t block) const {
        int64_t unit, within;
        find(block, unit, within);
        return v + unit * v_unit + within * kBlock * v_dim;
    }
};

// Rows of one sequence from position `first` on, and one group of heads.
template <class Stored>
struct Part {
    Keys<Stored> keys;
    int64_t group;
    int64_t row;     // of the block of rows
    int64_t num_rows;
    int64_t first;
    int64_t oldest;  // positions before it have no keys
};

// At most kTile rows of a part: queries [num_rows, heads of the group, qk_dim] after rotation and scaling, and where
// their mixed values [num_rows, heads of the group, v_dim] go.
struct Tile {
    const float* q;
    ptrdiff_t q_stride;
    float* out;
    ptrdiff_t out_stride;
    int num_rows;
    int64_t first;
    int64_t oldest;
};

MIMO_INLINE int64_t first_seen(const MimoHeads& heads, int64_t row, int64_t oldest) {
    const int64_t window = heads.window_keys ? row - heads.window_keys + 1 : 0;
    return window > oldest ? window : oldest;
}

// Running softmax of every query of a tile.
struct Running {
    float* mixed;    // [queries, v_width]
    v16* total;      // [queries], by position % 16
    float* largest;  // [queries]
    int v_width;     // v_dim rounded up to 16
};

inline int64_t v_width(const MimoHeads& heads) { return (heads.v_dim + 15) / 16 * 16; }

// The blocks of a span with keys that a row sees.
template <class Stored>
struct Blocks {
    const Stored *k[kSpanBlocks], *v[kSpanBlocks];
    int count = 0;

    Blocks(const Keys<Stored>& keys, int64_t first, int64_t end) {
        for (int64_t block = first; block < end; ++block, ++count) {
            k[count] = keys.keys(block);
            v[count] = keys.values(block);
        }
    }
};

template <class Stored>
MIMO_INLINE void fetch(const Stored* from, int64_t count) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; i += kLine / (int)sizeof(Stored)) __builtin_prefetch(from + i);
}

template <int num_queries, int num_blocks, bool fetches, class Stored>
MIMO_INLINE void score_blocks(const float* const* q, const Stored* const* blocks, const Stored* const* next, int qk_dim,
                              v16* scores) {
    v16 sums[num_queries][num_blocks] = {};
    for (int d = 0; d < qk_dim; ++d) {
        v16 keys[num_blocks];
#pragma GCC unroll 4
        for (int b = 0; b < num_blocks; ++b) {
            keys[b] = load(blocks[b] + d * kBlock);
            if (fetches) __builtin_prefetch(next[b] + d * kBlock);
        }
#pragma GCC unroll 8
        for (int i = 0; i < num_queries; ++i) {
            const v16 value = all(q[i][d]);
#pragma GCC unroll 4
            for (int b = 0; b < num_blocks; ++b) sums[i][b] = fma(keys[b], value, sums[i][b]);
        }
    }
    for (int i = 0; i < num_queries; ++i)
        for (int b = 0; b < num_blocks; ++b) scores[kSpanBlocks * i + b] = sums[i][b];
}

// Scores of `count` blocks, several at once as the registers allow.
template <int num_queries, bool fetches, class Stored>
MIMO_INLINE void score(const float* const* q, const Stored* const* blocks, const Stored* const* next, int count,
                       int qk_dim, v16* scores) {
    constexpr int room = kSums / num_queries;
    constexpr int together = room >= 4 ? 4 : room >= 2 ? 2 : 1;
    int b = 0;
    for (; b + together <= count; b += together)
        score_blocks<num_queries, together, fetches>(q, blocks + b, next + b, qk_dim, scores + b);
    if constexpr (together == 4)
        for (; b + 2 <= count; b += 2)
            score_blocks<num_queries, 2, fetches>(q, blocks + b, next + b, qk_dim, scores + b);
    for (; b < count; ++b) score_blocks<num_queries, 1, fetches>(q, blocks + b, next + b, qk_dim, scores + b);
}

// sums += weights times a row of values.
template <int num_queries, int num_vectors, bool whole, class Stored>
MIMO_INLINE void add_row(v16 (&sums)[num_queries][num_vectors], const Stored* values, int count, const float* weights) {
    v16 row[num_vectors];
#pragma GCC unroll 4
    for (int c = 0; c < num_vectors; ++c)
        row[c] = whole ? load(values + 16 * c) : load_some(values + 16 * c, count - 16 * c);
#pragma GCC unroll 8
    for (int i = 0; i < num_queries; ++i) {
        const v16 weight = all(weights[i * kSpan]);
#pragma GCC unroll 4
        for (int c = 0; c < num_vectors; ++c) sums[i][c] = fma(row[c], weight, sums[i][c]);
    }
}

// mixed = mixed * factor + weights [num_queries, kSpan] times columns of the values of positions [first, end) within
// the span. Even and odd positions are summed apart: where few sums go side by side, one would wait for itself.
template <int num_queries, int num_vectors, bool whole, bool fetches, class Stored>
MIMO_INLINE void mix_columns(float* const* mixed, const v16* factors, const v16* weights, const Stored* const* blocks,
                             const Stored* const* next, int first, int end, int v_dim, int column) {
    constexpr bool together = 2 * num_queries * num_vectors <= kSums;
    v16 even[num_queries][num_vectors] = {}, odd[num_queries][num_vectors] = {};
    const int count = v_dim - column;
    const auto walk = [&](auto evens, auto odds) __attribute__((always_inline)) {
        for (int block = first / kBlock; block * kBlock < end; ++block) {
            int j = first > block * kBlock ? first - block * kBlock : 0;
            const int to = end < (block + 1) * kBlock ? end - block * kBlock : kBlock;
            const Stored* values = blocks[block] + (ptrdiff_t)j * v_dim + column;
            const Stored* asked = next[block] + (ptrdiff_t)j * v_dim + column;
            const float* weight = (const float*)(weights + block) + j;
            const auto next = [&] { ++j, ++weight, values += v_dim; };
            if (j % 2) {
                if constexpr (odds) add_row<num_queries, num_vectors, whole>(odd, values, count, weight);
                next();
            }
            for (; j + 2 <= to; j += 2, weight += 2, values += 2 * v_dim) {
                if constexpr (fetches && evens) {
                    fetch(asked, num_vectors * 16);
                    fetch(asked + v_dim, num_vectors * 16);
                    asked += 2 * v_dim;
                }
                if constexpr (evens) add_row<num_queries, num_vectors, whole>(even, values, count, weight);
                if constexpr (odds) add_row<num_queries, num_vectors, whole>(odd, values + v_dim, count, weight + 1);
            }
            if constexpr (evens)
                if (j < to) add_row<num_queries, num_vectors, whole>(even, values, count, weight);
        }
    };
    const std::true_type yes;
    const std::false_type no;
    if constexpr (together) {
        walk(yes, yes);
    } else {
        walk(yes, no);
        walk(no, yes);
    }
    for (int i = 0; i < num_queries; ++i)
        for (int c = 0; c < num_vectors; ++c) {
            float* to = mixed[i] + column + 16 * c;
            store(to, fma(load(to), factors[i], even[i][c] + odd[i][c]));
        }
}

// Scores of the positions from lane `first` to lane `last`, and of the others what weighs nothing.
MIMO_INLINE v16 hide(v16 scores, int64_t first, int64_t last) {
    const float counted[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const auto lane = [](int64_t number) { return all((float)(number < -1 ? -1 : number > 16 ? 16 : number)); };
    const v16 lanes = load(counted), from = lane(first), to = lane(last);
    return each([&](int p) {
        const Bits seen = (lanes.part[p] >= from.part[p]) & (lanes.part[p] <= to.part[p]);
        return seen ? scores.part[p] : kUnseen - Lanes{};
    });
}

// Turns a query's scores of a span into weights relative to the largest score so far. What was mixed before is to be
// multiplied by the result.
MIMO_INLINE v16 weigh(v16* scores, int first_block, int end_block, const Running& running, int query) {
    v16 top = scores[first_block];
    for (int b = first_block + 1; b < end_block; ++b) top = max(top, scores[b]);
    const float before = running.largest[query], highest = largest(top), now = highest > before ? highest : before;
    const v16 factor = exp2(all(before - now)), reference = all(now);
    v16 total = running.total[query] * factor;
    for (int b = first_block; b < end_block; ++b) {
        const v16 below = scores[b] - reference, weight = exp2(below);
        scores[b] = each([&](int p) {  // far below the largest, and what is not seen, weighs nothing
            return below.part[p] > -126.0f - Lanes{} ? weight.part[p] : Lanes{};
        });
        total = total + scores[b];
    }
    running.total[query] = total;
    running.largest[query] = now;
    return factor;
}

// Queries [query, query + num_queries) of a tile, all heads of a row side by side, go over one span. With `fetches`,
// each key and value read asks for the one at the same place of the span that comes next: it lies where the processor
// does not expect it, and few queries wait for memory only.
template <int num_queries, bool fetches, class Stored>
__attribute__((noinline)) void attend_span(const MimoHeads& heads, const Tile& tile, const Keys<Stored>& keys,
                                           const Running& running, int query, int64_t span,
                                           const Blocks<Stored>& next) {
    const int per_group = (int)(heads.num_heads / heads.num_kv_heads);
    const int64_t oldest_row = tile.first + query / per_group;
    const int64_t newest_row = tile.first + (query + num_queries - 1) / per_group;
    const auto first_key = [&](int64_t row) { return first_seen(heads, row, tile.oldest); };
    const int64_t base = span * kSpan;
    const int64_t seen_from = first_key(oldest_row) > base ? first_key(oldest_row) - base : 0;
    const int64_t seen_to = newest_row + 1 - base < kSpan ? newest_row + 1 - base : kSpan;
    if (seen_from >= seen_to) return;
    const int first_block = (int)(seen_from / kBlock), end_block = (int)((seen_to + kBlock - 1) / kBlock);

    const float* q[num_queries];
    float* mixed[num_queries];
    for (int i = 0; i < num_queries; ++i) {
        const int row = (query + i) / per_group, head = (query + i) % per_group;
        q[i] = tile.q + row * tile.q_stride + head * heads.qk_dim;
        mixed[i] = running.mixed + (ptrdiff_t)(query + i) * running.v_width;
    }
    const Blocks<Stored> blocks(keys, span * kSpanBlocks + first_block, span * kSpanBlocks + end_block);
    const Stored *k_next[kSpanBlocks], *v_next[kSpanBlocks];
    if (fetches) {
        for (int b = 0; b < blocks.count; ++b) {
            k_next[b] = next.k[b < next.count ? b : 0];
            v_next[b] = next.v[b < next.count ? b : 0];
        }
        for (int b = blocks.count; b < next.count; ++b) {
            fetch(next.k[b], kBlock * heads.qk_dim);
            fetch(next.v[b], kBlock * heads.v_dim);
        }
    }
    v16 scores[num_queries * kSpanBlocks], factors[num_queries];
    score<num_queries, fetches>(q, blocks.k, k_next, blocks.count, (int)heads.qk_dim, scores + first_block);

    for (int i = 0; i < num_queries; ++i) {
        v16* own = scores + kSpanBlocks * i;
        const int64_t row = tile.first + (query + i) / per_group, first = first_key(row);
        for (int b = first_block; b < end_block; ++b) {
            const int64_t start = base + b * kBlock;
            if (first > start || row < start + kBlock - 1) own[b] = hide(own[b], first - start, row - start);
        }
        factors[i] = weigh(own, first_block, end_block, running, query + i);
    }
    constexpr int room = kSums / num_queries;
    constexpr int together = room >= 4 ? 4 : room >= 2 ? 2 : 1;
    const int start = first_block * kBlock, from = (int)seen_from - start, to = (int)seen_to - start;
    const int v_dim = (int)heads.v_dim;
    const auto mix = [&](auto count, auto whole, int column) __attribute__((always_inline)) {
        mix_columns<num_queries, decltype(count)::value, decltype(whole)::value, fetches>(
            mixed, factors, scores + first_block, blocks.v, v_next, from, to, v_dim, column);
    };
    const std::true_type whole;
    int column = 0;
    for (; column + 16 * together <= v_dim; column += 16 * together)
        mix(std::integral_constant<int, together>{}, whole, column);
    if constexpr (together == 4)
        for (; column + 32 <= v_dim; column += 32) mix(std::integral_constant<int, 2>{}, whole, column);
    const std::integral_constant<int, 1> one;
    for (; column + 16 <= v_dim; column += 16) mix(one, whole, column);
    if (column < v_dim) mix(one, std::false_type{}, column);
}

// The sink is one more score without a value; it joins at the end. `sink` is that of the group's first head.
inline void finish(const MimoHeads& heads, const Tile& tile, const Running& running, const float* sink) {
    const int per_group = (int)(heads.num_heads / heads.num_kv_heads);
    for (int query = 0; query < tile.num_rows * per_group; ++query) {
        const int row = query / per_group, head = query % per_group;
        float total = sum(running.total[query]), scale = 1.0f;
        if (sink) {
            const float own = sink[head] * kLog2E, largest = running.largest[query];
            const float reference = own > largest ? own : largest;
            scale = exp2(all(largest - reference)).part[0][0];
            total = total * scale + exp2(all(own - reference)).part[0][0];
        }
        const v16 factor = all(scale / total);
        float* out = tile.out + row * tile.out_stride + head * heads.v_dim;
        const float* mixed = running.mixed + (ptrdiff_t)query * running.v_width;
        for (int c = 0; c < running.v_width; c += 16)
            store_some(out + c, load(mixed + c) * factor, (int)heads.v_dim - c);
    }
}

template <int num_queries, class Stored>
void attend_chunk(bool fetches, const MimoHeads& heads, const Tile& tile, const Keys<Stored>& keys,
                  const Running& running, int query, int64_t span, const Blocks<Stored>& next) {
    if (fetches) attend_span<num_queries, true>(heads, tile, keys, running, query, span, next);
    else attend_span<num_queries, false>(heads, tile, keys, running, query, span, next);
}

// What the newest row of a part sees of a span.
template <class Stored>
Blocks<Stored> blocks_of(const MimoHeads& heads, const Part<Stored>& part, int64_t span) {
    const int64_t oldest = first_seen(heads, part.first, part.oldest) / kBlock, first = span * kSpanBlocks;
    const int64_t last = (part.first + part.num_rows - 1) / kBlock, end = first + kSpanBlocks;
    return Blocks<Stored>(part.keys, first > oldest ? first : oldest, end <= last ? end : last + 1);
}

// `after` is the part whose turn comes next, or null.
template <class Stored>
void attend(const MimoHeads& heads, const Tile& tile, const Part<Stored>& part, const Part<Stored>* after,
            const Running& running, const float* sink) {
    const int num_queries = tile.num_rows * (int)(heads.num_heads / heads.num_kv_heads);
    std::memset(running.mixed, 0, sizeof(float) * num_queries * running.v_width);
    for (int i = 0; i < num_queries; ++i) {
        running.total[i] = all(0.0f);
        running.largest[i] = kNothingYet;
    }
    const bool fetches = tile.num_rows == 1;
    const int64_t oldest = first_seen(heads, tile.first, tile.oldest), last = tile.first + tile.num_rows - 1;
    for (int64_t span = oldest / kSpan; span <= last / kSpan; ++span) {
        const bool is_last = span == last / kSpan;
        const Part<Stored>* next_part = is_last ? after : &part;
        const Blocks<Stored> next =
            !fetches || !next_part ? Blocks<Stored>(part.keys, 0, 0)
            : is_last ? blocks_of(heads, *after, first_seen(heads, after->first, after->oldest) / kSpan)
                      : blocks_of(heads, part, span + 1);
        int query = 0;
        const auto chunk = [&](auto count) __attribute__((always_inline)) {
            constexpr int together = decltype(count)::value;
            for (; query + together <= num_queries; query += together)
                attend_chunk<together>(fetches && query == 0 && next.count, heads, tile, part.keys, running, query,
                                       span, next);
        };
        if constexpr (kQueries >= 8) chunk(std::integral_constant<int, 8>{});
        chunk(std::integral_constant<int, 4>{});
        chunk(std::integral_constant<int, 2>{});
        chunk(std::integral_constant<int, 1>{});
    }
    finish(heads, tile, running, sink);
}

}  // namespace mimo
