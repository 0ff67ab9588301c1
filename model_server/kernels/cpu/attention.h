// Attention of a tile of rows of one sequence over its keys, where they lie.
//
// Keys are walked in spans of 64 positions aligned to position 0, with a running softmax: per row and span the largest
// score, then the weights and the values in the order of positions. Keys a row does not see weigh exactly 0, so what a
// row computes depends on its position and its keys only. Scores are in units of log 2.
#pragma once

#include "interface.h"
#include "vector.h"

namespace mimo {

constexpr int kBlock = 16;
constexpr int kSpan = 64;
constexpr int kTile = 32;
// Below every score, and finite: differences of them stay numbers. A row that has seen nothing yet is above what it
// does not see.
constexpr float kUnseen = -1e30f;
constexpr float kNothingYet = -1e29f;

// Where the keys and values of one sequence and layer lie.
template <class Stored>
struct Keys {
    const Stored *k, *v;        // of the layer and the first group in page or slot 0
    ptrdiff_t k_unit, v_unit;   // values from a page to the next
    ptrdiff_t k_group, v_group; // values from a group to the next
    ptrdiff_t k_block, v_block; // values in a block of 16 positions
    const int32_t* pages;       // null: a ring
    int64_t num_blocks;         // of the ring

    MIMO_INLINE void find(int64_t block, int64_t& unit, int64_t& within) const {
        unit = pages ? pages[block / 4] : 0;
        within = pages ? block % 4 : block % num_blocks;
    }
    MIMO_INLINE const Stored* keys(int64_t group, int64_t block) const {
        int64_t unit, within;
        find(block, unit, within);
        return k + unit * k_unit + group * k_group + within * k_block;
    }
    MIMO_INLINE const Stored* values(int64_t group, int64_t block) const {
        int64_t unit, within;
        find(block, unit, within);
        return v + unit * v_unit + group * v_group + within * v_block;
    }
};

// Rows of one sequence from position `first` on: queries [num_rows, num_heads, qk_dim] after rotation and scaling, and
// where their mixed values [num_rows, num_heads, v_dim] go.
struct Tile {
    const float* q;
    ptrdiff_t q_stride;
    float* out;
    ptrdiff_t out_stride;
    int num_rows;
    int64_t first;
    int64_t oldest;  // positions before it have no keys
};

MIMO_INLINE int64_t first_seen(const MimoHeads& heads, const Tile& tile, int64_t row) {
    const int64_t window = heads.window_keys ? row - heads.window_keys + 1 : 0;
    return window > tile.oldest ? window : tile.oldest;
}

// Running softmax of every query of one group in a tile.
struct Running {
    float* mixed;    // [queries, v_width]
    v16* total;      // [queries], by position % 16
    float* largest;  // [queries]
    int v_width;     // v_dim rounded up to 16
};

inline int64_t v_width(const MimoHeads& heads) { return (heads.v_dim + 15) / 16 * 16; }

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
        for (int b = 0; b < num_blocks; ++b) scores[4 * i + b] = sums[i][b];
}

// Scores of `count` blocks, several at once as the registers allow.
template <int num_queries, bool fetches, class Stored>
MIMO_INLINE void score(const float* const* q, const Stored* const* blocks, const Stored* const* next, int count,
                       int qk_dim, v16* scores) {
    constexpr int room = kAccumulators / 3 * 2 / num_queries;
    constexpr int together = room >= 4 ? 4 : room >= 2 ? 2 : 1;
    int b = 0;
    for (; b + together <= count; b += together)
        score_blocks<num_queries, together, fetches>(q, blocks + b, next + b, qk_dim, scores + b);
    if constexpr (together == 4)
        for (; b + 2 <= count; b += 2)
            score_blocks<num_queries, 2, fetches>(q, blocks + b, next + b, qk_dim, scores + b);
    for (; b < count; ++b) score_blocks<num_queries, 1, fetches>(q, blocks + b, next + b, qk_dim, scores + b);
}

// mixed += weights [num_queries, 64] times the values of positions [first, end) within the span.
template <int num_queries, int num_vectors, bool fetches, class Stored>
MIMO_INLINE void mix_columns(float* const* mixed, const v16* weights, const Stored* const* blocks,
                             const Stored* const* next, int first, int end, int v_dim, int column) {
    v16 sums[num_queries][num_vectors];
    for (int i = 0; i < num_queries; ++i)
        for (int c = 0; c < num_vectors; ++c) sums[i][c] = load(mixed[i] + column + 16 * c);
    const bool whole = column + 16 * num_vectors <= v_dim;
    const float* by_position = (const float*)weights;
    for (int block = first / kBlock; block * kBlock < end; ++block) {
        const Stored* values = blocks[block] + column;
        const int from = first > block * kBlock ? first - block * kBlock : 0;
        const int to = end < (block + 1) * kBlock ? end - block * kBlock : kBlock;
        for (int j = from; j < to; ++j) {
            v16 row[num_vectors];
#pragma GCC unroll 4
            for (int c = 0; c < num_vectors; ++c) {
                const Stored* at = values + (ptrdiff_t)j * v_dim + 16 * c;
                row[c] = whole ? load(at) : load_some(at, v_dim - column - 16 * c);
                if (fetches) __builtin_prefetch(next[block] + (ptrdiff_t)j * v_dim + column + 16 * c);
            }
#pragma GCC unroll 8
            for (int i = 0; i < num_queries; ++i) {
                const v16 weight = all(by_position[i * kSpan + block * kBlock + j]);
#pragma GCC unroll 4
                for (int c = 0; c < num_vectors; ++c) sums[i][c] = fma(row[c], weight, sums[i][c]);
            }
        }
    }
    for (int i = 0; i < num_queries; ++i)
        for (int c = 0; c < num_vectors; ++c) store(mixed[i] + column + 16 * c, sums[i][c]);
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

// Turns a query's scores of a span into weights relative to the largest score so far, and what it mixed before too.
MIMO_INLINE void weigh(v16* scores, int first_block, int end_block, const Running& running, int query) {
    v16 top = scores[first_block];
    for (int b = first_block + 1; b < end_block; ++b) top = max(top, scores[b]);
    const float before = running.largest[query], now = largest(top);
    v16 total = running.total[query];
    if (now > before) {
        float* mixed = running.mixed + (ptrdiff_t)query * running.v_width;
        const v16 factor = exp2(all(before - now));
        total = total * factor;
        for (int c = 0; c < running.v_width; c += 16) store(mixed + c, load(mixed + c) * factor);
        running.largest[query] = now;
    }
    const v16 reference = all(running.largest[query]);
    for (int b = first_block; b < end_block; ++b) {
        const v16 below = scores[b] - reference, weight = exp2(below);
        scores[b] = each([&](int p) {  // far below the largest, and what is not seen, weighs nothing
            return below.part[p] > -126.0f - Lanes{} ? weight.part[p] : Lanes{};
        });
        total = total + scores[b];
    }
    running.total[query] = total;
}

// A span of one group.
struct Place {
    int64_t group, span;
};

// Queries [query, query + num_queries) of a group, all heads of a row side by side, go over one span. With `fetches`,
// each key and value read asks for the one at the same place of the span that comes next: it lies in another page,
// where the processor does not expect it, and few queries wait for memory only.
template <int num_queries, bool fetches, class Stored>
__attribute__((noinline)) void attend_span(const MimoHeads& heads, const Tile& tile, const Keys<Stored>& keys,
                                           const Running& running, int query, Place place, Place next) {
    const int64_t group = place.group, span = place.span;
    const int per_group = (int)(heads.num_heads / heads.num_kv_heads);
    const int64_t oldest_row = tile.first + query / per_group;
    const int64_t newest_row = tile.first + (query + num_queries - 1) / per_group;
    const auto first_key = [&](int64_t row) { return first_seen(heads, tile, row); };
    const int64_t base = span * kSpan;
    const int64_t seen_from = first_key(oldest_row) > base ? first_key(oldest_row) - base : 0;
    const int64_t seen_to = newest_row + 1 - base < kSpan ? newest_row + 1 - base : kSpan;
    if (seen_from >= seen_to) return;
    const int first_block = (int)(seen_from / kBlock), end_block = (int)((seen_to + kBlock - 1) / kBlock);

    const float* q[num_queries];
    float* mixed[num_queries];
    for (int i = 0; i < num_queries; ++i) {
        const int row = (query + i) / per_group, head = (query + i) % per_group;
        q[i] = tile.q + row * tile.q_stride + (group * per_group + head) * heads.qk_dim;
        mixed[i] = running.mixed + (ptrdiff_t)(query + i) * running.v_width;
    }
    const Stored *k_blocks[4], *v_blocks[4], *k_next[4], *v_next[4];
    for (int b = first_block; b < end_block; ++b) {
        k_blocks[b] = k_next[b] = keys.keys(group, span * 4 + b);
        v_blocks[b] = v_next[b] = keys.values(group, span * 4 + b);
        if (fetches && next.span * 4 + b <= newest_row / kBlock) {
            k_next[b] = keys.keys(next.group, next.span * 4 + b);
            v_next[b] = keys.values(next.group, next.span * 4 + b);
        }
    }
    v16 scores[num_queries * 4];
    score<num_queries, fetches>(q, k_blocks + first_block, k_next + first_block, end_block - first_block,
                                (int)heads.qk_dim, scores + first_block);

    const bool whole =
        first_key(newest_row) <= base + first_block * kBlock && oldest_row >= base + end_block * kBlock - 1;
    for (int i = 0; i < num_queries; ++i) {
        v16* own = scores + 4 * i;
        const int64_t row = tile.first + (query + i) / per_group;
        if (!whole)
            for (int b = first_block; b < end_block; ++b) {
                const int64_t start = base + b * kBlock;
                own[b] = hide(own[b], first_key(row) - start, row - start);
            }
        weigh(own, first_block, end_block, running, query + i);
    }
    constexpr int room = kAccumulators / 3 * 2 / num_queries;
    constexpr int together = room >= 4 ? 4 : room >= 2 ? 2 : 1;
    const int from = (int)seen_from, to = (int)seen_to, v_dim = (int)heads.v_dim;
    int column = 0;
    for (; column + 16 * together <= running.v_width; column += 16 * together)
        mix_columns<num_queries, together, fetches>(mixed, scores, v_blocks, v_next, from, to, v_dim, column);
    if constexpr (together == 4)
        for (; column + 32 <= running.v_width; column += 32)
            mix_columns<num_queries, 2, fetches>(mixed, scores, v_blocks, v_next, from, to, v_dim, column);
    for (; column < running.v_width; column += 16)
        mix_columns<num_queries, 1, fetches>(mixed, scores, v_blocks, v_next, from, to, v_dim, column);
}

// The sink is one more score without a value; it joins at the end.
inline void finish(const MimoHeads& heads, const Tile& tile, const Running& running, const float* sink, int64_t group) {
    const int per_group = (int)(heads.num_heads / heads.num_kv_heads);
    for (int query = 0; query < tile.num_rows * per_group; ++query) {
        const int row = query / per_group;
        const int64_t head = group * per_group + query % per_group;
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
                  const Running& running, int query, Place place, Place next) {
    if (fetches) attend_span<num_queries, true>(heads, tile, keys, running, query, place, next);
    else attend_span<num_queries, false>(heads, tile, keys, running, query, place, next);
}

constexpr int kQueries = kAccumulators >= 16 ? 8 : 4;  // that go over a span together

template <class Stored>
void attend(const MimoHeads& heads, const Tile& tile, const Keys<Stored>& keys, const Running& running,
            const float* sink) {
    const int per_group = (int)(heads.num_heads / heads.num_kv_heads);
    const int num_queries = tile.num_rows * per_group;
    const int64_t last = tile.first + tile.num_rows - 1;
    const int64_t oldest = first_seen(heads, tile, tile.first);
    for (int64_t group = 0; group < heads.num_kv_heads; ++group) {
        std::memset(running.mixed, 0, sizeof(float) * num_queries * running.v_width);
        for (int i = 0; i < num_queries; ++i) {
            running.total[i] = all(0.0f);
            running.largest[i] = kNothingYet;
        }
        for (int64_t span = oldest / kSpan; span <= last / kSpan; ++span) {
            const bool is_last = span == last / kSpan, ends = is_last && group + 1 == heads.num_kv_heads;
            const Place place{group, span};
            const Place next = ends ? place : is_last ? Place{group + 1, oldest / kSpan} : Place{group, span + 1};
            const bool fetches = num_queries <= 2 * kQueries;
            int query = 0;
            if constexpr (kQueries >= 8)
                for (; query + 8 <= num_queries; query += 8)
                    attend_chunk<8>(fetches && query == 0, heads, tile, keys, running, query, place, next);
            for (; query + 4 <= num_queries; query += 4)
                attend_chunk<4>(fetches && query == 0, heads, tile, keys, running, query, place, next);
            for (; query + 2 <= num_queries; query += 2)
                attend_chunk<2>(fetches && query == 0, heads, tile, keys, running, query, place, next);
            for (; query < num_queries; ++query)
                attend_chunk<1>(fetches && query == 0, heads, tile, keys, running, query, place, next);
        }
        finish(heads, tile, running, sink, group);
    }
}

}  // namespace mimo
