// One step of MiMo-V2-Flash over the next tokens of several sequences, from their ids to logits, in one call.
//
// Layer by layer, rows go in blocks; within a block a sequence goes in tiles of at most 32 rows, which are written to
// the cache and then attend. Experts see all rows that chose them together, so weights are read once for many rows.
// Memory comes from the caller. Nothing here allocates, throws or knows Python.
#include <algorithm>

#include "attention.h"
#include "crew.h"
#include "interface.h"
#include "layers.h"
#include "matmul.h"

namespace mimo {
namespace {

constexpr int64_t kBlockRows = 128;    // that share the matrices around attention and a dense block
constexpr int64_t kGuesses = 16;       // of different sequences that share the head
constexpr int64_t kExpertRows = 512;   // that are sorted by expert together
constexpr int kMostThreads = 64;
constexpr int64_t kMostTogether = 64;  // sequences that decode by themselves

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t padded(int64_t size) { return (size + 31) / 32 * 32; }

// Scratch memory, handed out from the front. Without memory it only counts.
struct Arena {
    char* memory;
    int64_t used = 0;

    template <class Item>
    Item* take(int64_t count) {
        Item* result = memory ? (Item*)(memory + used) : nullptr;
        used += (count * (int64_t)sizeof(Item) + 63) / 64 * 64;
        return result;
    }
};

// The intermediate values of a step.
template <class Stored>
struct Scratch {
    float *normed, *qkv, *attended, *inner, *gathered, *widened, *router_scores, *shares, *pair_shares;
    uint8_t* ids;
    int32_t *narrowed, *pair_rows, *first_pair;
    int64_t widened_stride;
    Running running[kMostThreads];
    Part<Stored>* parts;

    Scratch(const MimoModel& model, int64_t num_rows, int num_threads, Arena& arena) {
        int64_t qkv_size = 0, attended_size = 0, queries = 0, width = 0, groups = 0, inner_size = 0;
        int64_t inputs = 2 * model.hidden_size;
        for (const MimoHeads& heads : model.heads) {
            const int64_t kv = heads.num_kv_heads * (heads.qk_dim + heads.v_dim);
            qkv_size = larger(qkv_size, heads.num_heads * heads.qk_dim + kv);
            attended_size = larger(attended_size, heads.num_heads * heads.v_dim);
            if (heads.num_kv_heads) queries = larger(queries, heads.num_heads / heads.num_kv_heads * kTile);
            width = larger(width, v_width(heads));
            groups = larger(groups, heads.num_kv_heads);
        }
        const auto consider = [&](const MimoLayer& layer) {
            const MimoMatrix& down = layer.has_experts ? layer.expert_down[0] : layer.down;
            inner_size = larger(inner_size, down.num_in);
        };
        for (int64_t i = 0; i < model.num_layers; ++i) consider(model.layers[i]);
        for (int64_t i = 0; i < model.num_predictions; ++i) consider(model.predictions[i].block);
        inputs = larger(larger(inputs, attended_size), inner_size);
        const int64_t block = smaller(num_rows, kBlockRows), expert = smaller(num_rows, kExpertRows);
        const int64_t pairs = expert * larger(model.top_k, 1);
        normed = arena.take<float>(expert * larger(model.hidden_size, 1) * (model.num_predictions ? 2 : 1));
        qkv = arena.take<float>(block * padded(qkv_size));
        attended = arena.take<float>(block * attended_size);
        inner = arena.take<float>(larger(expert, block) * padded(inner_size));
        gathered = arena.take<float>(expert * model.hidden_size);
        widened_stride = inputs * kPanel;
        widened = arena.take<float>(num_threads * widened_stride);
        narrowed = arena.take<int32_t>(larger(expert, block) * padded(inputs) / 2);
        router_scores = arena.take<float>(expert * padded(model.num_experts));
        shares = arena.take<float>(pairs);
        pair_shares = arena.take<float>(pairs);
        ids = arena.take<uint8_t>(pairs);
        pair_rows = arena.take<int32_t>(pairs);
        first_pair = arena.take<int32_t>(model.num_experts + 1);
        for (int lane = 0; lane < num_threads; ++lane) {
            running[lane].mixed = arena.take<float>(queries * width);
            running[lane].total = arena.take<v16>(queries);
            running[lane].largest = arena.take<float>(queries);
        }
        parts = arena.take<Part<Stored>>(block * groups);
    }
};

template <class Stored>
class Step {
public:
    Step(const MimoModel& model, const MimoBatch& batch)
        : model_(model),
          batch_(batch),
          crew_(*(Crew*)batch.crew),
          arena_{(char*)batch.scratch},
          scratch_(model, batch.num_rows, crew_.num_threads(), arena_),
          hands_{crew_, scratch_.widened, scratch_.widened_stride, scratch_.narrowed} {}

    void run() {
        crew_.begin(batch_.num_rows);
        embed(batch_.hidden);
        int64_t expert_layer = 0;
        for (int64_t i = 0; i < model_.num_layers; ++i) {
            const MimoLayer& layer = model_.layers[i];
            attention(layer, batch_.hidden);
            if (layer.has_experts) experts(layer, batch_.hidden, expert_layer++);
            else dense(layer, batch_.hidden, batch_.num_rows);
        }
        logits();
        crew_.end();
    }

    void predict() {
        const MimoPrediction& prediction = model_.predictions[batch_.prediction];
        float* x = arena_.take<float>(batch_.num_rows * model_.hidden_size);
        float* scores = arena_.take<float>(smaller(batch_.num_rows, kGuesses) * padded(model_.vocab_size));
        join(prediction, x);
        last_attention(prediction.block, x);
        dense(prediction.block, x, batch_.num_segments);
        guess(prediction, x, scores);
    }

private:
    void embed_row(int64_t id, float* to) const {
        const int64_t size = model_.hidden_size;
        for (int64_t i = 0; i < size; i += 16) {
            const int count = (int)smaller(16, size - i);
            const v16 values = model_.embedding_storage == kF32
                                   ? load_some((const float*)model_.embedding + id * size + i, count)
                                   : load_some((const uint16_t*)model_.embedding + id * size + i, count);
            store_some(to + i, values, count);
        }
    }

    void embed(float* hidden) const {
        for (int64_t row = 0; row < batch_.num_rows; ++row)
            embed_row(batch_.ids[row], hidden + row * model_.hidden_size);
    }

    void norm(const float* from, int64_t num_rows, const float* weight, float* to, int64_t stride) const {
        for (int64_t row = 0; row < num_rows; ++row)
            norm_row(from + row * model_.hidden_size, weight, model_.hidden_size, model_.eps, to + row * stride);
    }

    // x += output(attention(norm(x)))
    void attention(const MimoLayer& layer, float* x) {
        const MimoHeads& heads = model_.heads[layer.window];
        const int64_t size = model_.hidden_size, qkv_stride = padded(layer.qkv.num_out);
        const int64_t attended_size = heads.num_heads * heads.v_dim;
        for (int64_t first = 0; first < batch_.num_rows; first += kBlockRows) {
            const int64_t count = smaller(kBlockRows, batch_.num_rows - first);
            norm(x + first * size, count, layer.attention_norm, scratch_.normed, size);
            multiply(layer.qkv, Rows{scratch_.normed, size}, count, Store{scratch_.qkv, qkv_stride}, hands_);
            attend_block(layer, heads, first, count, qkv_stride, false);
            multiply(layer.output, Rows{scratch_.attended, attended_size}, count, Add{x + first * size, size},
                     hands_);
        }
    }

    // The same for the last row of each segment, which come to lie at the front of x; of the others only keys and values
    // are wanted.
    void last_attention(const MimoLayer& layer, float* x) {
        const MimoHeads& heads = model_.heads[layer.window];
        const int64_t size = model_.hidden_size, qkv_stride = padded(layer.qkv.num_out);
        const int64_t attended_size = heads.num_heads * heads.v_dim;
        int64_t s = 0, end = 0;  // segments that are done, and the row where they end
        for (int64_t first = 0; first < batch_.num_rows; first += kBlockRows) {
            const int64_t count = smaller(kBlockRows, batch_.num_rows - first), done = s;
            norm(x + first * size, count, layer.attention_norm, scratch_.normed, size);
            multiply(layer.qkv, Rows{scratch_.normed, size}, count, Store{scratch_.qkv, qkv_stride}, hands_);
            attend_block(layer, heads, first, count, qkv_stride, true);
            for (; s < batch_.num_segments && end + batch_.segments[s].count <= first + count; ++s) {
                end += batch_.segments[s].count;
                std::memmove(x + s * size, x + (end - 1) * size, sizeof(float) * size);
                std::memmove(scratch_.attended + (s - done) * attended_size,
                             scratch_.attended + (end - 1 - first) * attended_size, sizeof(float) * attended_size);
            }
            if (s == done) continue;
            multiply(layer.output, Rows{scratch_.attended, attended_size}, s - done, Add{x + done * size, size},
                     hands_);
        }
    }

    // Rows [first, first + count) of the batch, sequence by sequence and group by group.
    void attend_block(const MimoLayer& layer, const MimoHeads& heads, int64_t first, int64_t count, int64_t stride,
                      bool only_last) {
        const int64_t num_parts = find_parts(layer, heads, first, count);
        for (Running& running : scratch_.running) running.v_width = (int)v_width(heads);
        crew_.each(num_parts, 1, [&](int64_t i, int64_t end, int lane) {
            for (; i < end; ++i) {
                const Part<Stored>* part = scratch_.parts + i;
                attend_part(layer, heads, *part, i + 1 < num_parts ? part + 1 : nullptr, stride,
                            scratch_.running[lane], only_last);
            }
        });
    }

    int64_t find_parts(const MimoLayer& layer, const MimoHeads& heads, int64_t first, int64_t count) {
        Part<Stored>* part = scratch_.parts;
        int64_t begin = 0;  // row of the batch where the segment begins
        for (int64_t s = 0; s < batch_.num_segments; begin += batch_.segments[s].count, ++s) {
            const MimoSegment& segment = batch_.segments[s];
            const int64_t row = larger(begin, first), end = smaller(begin + segment.count, first + count);
            for (int64_t group = 0; row < end && group < heads.num_kv_heads; ++group)
                *part++ = Part<Stored>{keys_of(layer, heads, segment, group), group, row - first, end - row,
                                       segment.first + row - begin, segment.oldest};
        }
        return part - scratch_.parts;
    }

    Keys<Stored> keys_of(const MimoLayer& layer, const MimoHeads& heads, const MimoSegment& segment,
                         int64_t group) const {
        const int64_t positions = layer.window
                                      ? (heads.window_keys - 1 + kTile + kBlock - 1) / kBlock * kBlock
                                      : (int64_t)kPageBlocks * kBlock;
        const int64_t k_group = positions * heads.qk_dim, v_group = positions * heads.v_dim;
        const int64_t num_groups = heads.num_layers * heads.num_kv_heads;
        const int64_t before = layer.cache_layer * heads.num_kv_heads + group;
        const int64_t at = before + (layer.window ? segment.ring * num_groups : 0);
        return Keys<Stored>{(const Stored*)(layer.window ? batch_.ring_k : batch_.page_k) + at * k_group,
                            (const Stored*)(layer.window ? batch_.ring_v : batch_.page_v) + at * v_group,
                            num_groups * k_group,
                            num_groups * v_group,
                            heads.qk_dim,
                            heads.v_dim,
                            layer.window ? nullptr : segment.pages,
                            positions / kBlock};
    }

    // Tile by tile, since a later tile's keys may take the place of those that an earlier one sees.
    void attend_part(const MimoLayer& layer, const MimoHeads& heads, const Part<Stored>& part,
                     const Part<Stored>* after, int64_t stride, const Running& running, bool only_last) {
        const int64_t per_group = heads.num_heads / heads.num_kv_heads, out_stride = heads.num_heads * heads.v_dim;
        const float* sink = layer.sink ? layer.sink + part.group * per_group : nullptr;
        for (int64_t done = 0; done < part.num_rows; done += kTile) {
            const int num_rows = (int)smaller(kTile, part.num_rows - done);
            float* qkv = scratch_.qkv + (part.row + done) * stride;
            float* out = scratch_.attended + (part.row + done) * out_stride + part.group * per_group * heads.v_dim;
            for (int row = 0; row < num_rows; ++row) place(heads, part, part.first + done + row, qkv + row * stride);
            if (only_last && done + num_rows < part.num_rows) continue;
            const int skipped = only_last ? num_rows - 1 : 0;
            qkv += skipped * stride;
            out += skipped * out_stride;
            const Tile tile{qkv + part.group * per_group * heads.qk_dim, stride, out, out_stride, num_rows - skipped,
                            part.first + done + skipped, part.oldest};
            attend(heads, tile, part, after, running, sink);
        }
    }

    // Turns the queries of one row and group, and stores its key and value.
    void place(const MimoHeads& heads, const Part<Stored>& part, int64_t position, float* qkv) const {
        const int64_t per_group = heads.num_heads / heads.num_kv_heads, half = heads.half_rotary, dim = heads.qk_dim;
        const float *cos = heads.cos + position * half, *sin = heads.sin + position * half;
        const float scale = kLog2E / __builtin_sqrtf((float)dim);
        float* query = qkv + part.group * per_group * dim;
        float* key = qkv + (heads.num_heads + part.group) * dim;
        float* value = qkv + (heads.num_heads + heads.num_kv_heads) * dim + part.group * heads.v_dim;
        for (int64_t n = 0; n < per_group; ++n) rotate(query + n * dim, cos, sin, half, dim, scale);
        rotate(key, cos, sin, half, dim, 1.0f);
        const int64_t block = position / kBlock, within = position % kBlock;
        Stored* to = const_cast<Stored*>(part.keys.keys(block)) + within;
        for (int64_t d = 0; d < dim; ++d) put(to + d * kBlock, key[d]);
        to = const_cast<Stored*>(part.keys.values(block)) + within * heads.v_dim;
        for (int64_t d = 0; d < heads.v_dim; ++d) put(to + d, value[d] * model_.value_scale);
    }

    // x += down(silu(gate(norm(x))) * up(norm(x)))
    void dense(const MimoLayer& layer, float* x, int64_t num_rows) {
        const int64_t size = model_.hidden_size, inner_stride = padded(layer.down.num_in);
        for (int64_t first = 0; first < num_rows; first += kBlockRows) {
            const int64_t count = smaller(kBlockRows, num_rows - first);
            norm(x + first * size, count, layer.mlp_norm, scratch_.normed, size);
            multiply(layer.gate_up, Rows{scratch_.normed, size}, count, Gated{scratch_.inner, inner_stride},
                     hands_);
            multiply(layer.down, Rows{scratch_.inner, inner_stride}, count, Add{x + first * size, size},
                     hands_);
        }
    }

    // x += the chosen experts' outputs by their shares, in the order of expert ids
    void experts(const MimoLayer& layer, float* x, int64_t expert_layer) {
        const int64_t size = model_.hidden_size;
        for (int64_t first = 0; first < batch_.num_rows; first += kExpertRows) {
            const int64_t count = smaller(kExpertRows, batch_.num_rows - first);
            norm(x + first * size, count, layer.mlp_norm, scratch_.normed, size);
            route(layer, first, count, expert_layer);
            sort_pairs(count);
            for (int64_t e = 0; e < model_.num_experts; ++e) expert(layer, e, x + first * size);
        }
    }

    void route(const MimoLayer& layer, int64_t first, int64_t count, int64_t expert_layer) {
        const int64_t stride = padded(model_.num_experts), top_k = model_.top_k;
        multiply(layer.router, Rows{scratch_.normed, model_.hidden_size}, count, Store{scratch_.router_scores, stride},
                 hands_);
        int64_t begin = 0;
        for (int64_t s = 0; s < batch_.num_segments; begin += batch_.segments[s].count, ++s) {
            const MimoSegment& segment = batch_.segments[s];
            const int64_t end = smaller(begin + segment.count, first + count);
            for (int64_t row = larger(begin, first); row < end; ++row) {
                const int64_t place = (row - begin) * model_.num_expert_layers + expert_layer;
                const uint8_t* forced = segment.forced ? segment.forced + place * top_k : nullptr;
                uint8_t* ids = scratch_.ids + (row - first) * top_k;
                choose_experts(model_, layer.router_bias, forced, scratch_.router_scores + (row - first) * stride, ids,
                               scratch_.shares + (row - first) * top_k);
                std::memcpy(batch_.experts + (row * model_.num_expert_layers + expert_layer) * top_k, ids, top_k);
            }
        }
    }

    // Orders (row, expert) pairs by expert, rows ascending.
    void sort_pairs(int64_t count) {
        int32_t* first = scratch_.first_pair;
        const int64_t num_pairs = count * model_.top_k;
        std::memset(first, 0, sizeof(int32_t) * (model_.num_experts + 1));
        for (int64_t i = 0; i < num_pairs; ++i) ++first[scratch_.ids[i] + 1];
        for (int64_t e = 0; e < model_.num_experts; ++e) first[e + 1] += first[e];
        for (int64_t i = 0; i < num_pairs; ++i) {
            const int32_t place = first[scratch_.ids[i]]++;
            scratch_.pair_rows[place] = (int32_t)(i / model_.top_k);
            scratch_.pair_shares[place] = scratch_.shares[i];
        }
        for (int64_t e = model_.num_experts; e > 0; --e) first[e] = first[e - 1];
        first[0] = 0;
    }

    void expert(const MimoLayer& layer, int64_t e, float* x) {
        const int64_t size = model_.hidden_size, begin = scratch_.first_pair[e];
        const int64_t count = scratch_.first_pair[e + 1] - begin;
        if (count == 0) return;
        const int32_t* rows = scratch_.pair_rows + begin;
        const float* from = scratch_.normed + rows[0] * size;
        if (count > 1) {
            for (int64_t i = 0; i < count; ++i)
                std::memcpy(scratch_.gathered + i * size, scratch_.normed + rows[i] * size, sizeof(float) * size);
            from = scratch_.gathered;
        }
        const MimoMatrix& down = layer.expert_down[e];
        const int64_t inner_stride = padded(down.num_in);
        multiply(layer.expert_gate_up[e], Rows{from, size}, count, Gated{scratch_.inner, inner_stride},
                 hands_);
        multiply(down, Rows{scratch_.inner, inner_stride}, count,
                 AddShare{x, size, rows, scratch_.pair_shares + begin}, hands_);
    }

    void logits() {
        const int64_t size = model_.hidden_size;
        int64_t begin = 0, wanted = 0, written = 0;
        const auto flush = [&] {
            float* scores = batch_.logits + written * model_.vocab_size;
            multiply(model_.head, Rows{scratch_.normed, size}, wanted, Store{scores, model_.vocab_size}, hands_);
            for (int64_t i = 0; i < wanted; ++i)
                batch_.likeliest[written + i] = likeliest(scores + i * model_.vocab_size, model_.vocab_size);
            written += wanted;
            wanted = 0;
        };
        const int64_t room = smaller(batch_.num_rows, kBlockRows);
        for (int64_t s = 0; s < batch_.num_segments; begin += batch_.segments[s].count, ++s) {
            const MimoSegment& segment = batch_.segments[s];
            for (int64_t row = begin + segment.count - segment.num_logits; row < begin + segment.count; ++row) {
                norm(batch_.hidden + row * size, 1, model_.final_norm, scratch_.normed + wanted * size, size);
                if (++wanted == room) flush();
            }
        }
        flush();
    }

    // x = projection([norm(embedding), norm(main hidden state)])
    void join(const MimoPrediction& prediction, float* x) {
        const int64_t size = model_.hidden_size;
        for (int64_t first = 0; first < batch_.num_rows; first += kBlockRows) {
            const int64_t count = smaller(kBlockRows, batch_.num_rows - first);
            for (int64_t row = 0; row < count; ++row) {
                float* joined = scratch_.normed + row * 2 * size;
                embed_row(batch_.ids[first + row], joined);
                norm_row(joined, prediction.embedding_norm, size, model_.eps, joined);
            }
            norm(batch_.hidden + first * size, count, prediction.hidden_norm, scratch_.normed + size, 2 * size);
            multiply(prediction.projection, Rows{scratch_.normed, 2 * size}, count, Store{x + first * size, size},
                     hands_);
        }
    }

    void guess(const MimoPrediction& prediction, const float* x, float* scores) {
        const int64_t size = model_.hidden_size, stride = padded(model_.vocab_size);
        int64_t segments[kGuesses], wanted = 0;
        const auto flush = [&] {
            multiply(model_.head, Rows{scratch_.normed, size}, wanted, Store{scores, stride}, hands_);
            for (int64_t i = 0; i < wanted; ++i)
                batch_.likeliest[segments[i]] = larger(likeliest(scores + i * stride, model_.vocab_size), 0);
            wanted = 0;
        };
        const int64_t room = smaller(batch_.num_rows, kGuesses);
        for (int64_t s = 0; s < batch_.num_segments; ++s) {
            if (batch_.segments[s].num_logits == 0) continue;
            norm(x + s * size, 1, prediction.final_norm, scratch_.normed + wanted * size, size);
            segments[wanted++] = s;
            if (wanted == room) flush();
        }
        flush();
    }

    // The lowest id of the largest score; -1 if one is not finite.
    static int64_t likeliest(const float* scores, int64_t count) {
        const int64_t whole = count / 16 * 16;
        v16 top = all(-__FLT_MAX__), zero{};
        Bits first[kParts] = {};  // where each lane has its largest
        for (int64_t i = 0; i < whole; i += 16) {
            const v16 x = load(scores + i);
            zero = zero + (x - x);  // of finite numbers only
            for (int p = 0; p < kParts; ++p) {
                const Bits better = x.part[p] > top.part[p];
                top.part[p] = better ? x.part[p] : top.part[p];
                first[p] = better ? (int32_t)i - Bits{} : first[p];
            }
        }
        int32_t ids[16];
        std::memcpy(ids, first, sizeof ids);
        int64_t best = 0;
        for (int lane = 0; lane < (whole ? 16 : 0); ++lane) {
            const int64_t id = ids[lane] + lane;
            if (scores[id] > scores[best] || (scores[id] == scores[best] && id < best)) best = id;
        }
        float rest = sum(zero);
        for (int64_t i = whole; i < count; ++i) {
            rest += scores[i] - scores[i];
            if (scores[i] > scores[best]) best = i;
        }
        return rest == 0.0f ? best : -1;
    }

    const MimoModel& model_;
    const MimoBatch& batch_;
    Crew& crew_;
    Arena arena_;
    Scratch<Stored> scratch_;
    Hands hands_;
};

}  // namespace
}  // namespace mimo

void* mimo_new_crew(int64_t num_threads) {
    return new mimo::Crew((int)mimo::smaller(num_threads, mimo::kMostThreads));
}

void mimo_end_crew(void* crew) { delete (mimo::Crew*)crew; }

int64_t mimo_scratch_bytes(const MimoModel* model, const void* crew, int64_t num_rows) {
    mimo::Arena arena{nullptr};
    mimo::Scratch<float> scratch(*model, num_rows, ((const mimo::Crew*)crew)->num_threads(), arena);
    if (model->num_predictions == 0) return arena.used;
    arena.take<float>(num_rows * model->hidden_size);  // a prediction's rows and scores
    arena.take<float>(mimo::smaller(num_rows, mimo::kGuesses) * mimo::padded(model->vocab_size));
    return arena.used;
}

void mimo_step(const MimoModel* model, const MimoBatch* batch) {
    if (batch->cache_storage == kBf16) mimo::Step<uint16_t>(*model, *batch).run();
    else mimo::Step<float>(*model, *batch).run();
}

int64_t mimo_decode(const MimoModel* model, const MimoBatch* batch, int64_t most, const int64_t* stops,
                    int64_t num_stops, int64_t keeps_logits) {
    const int64_t count = batch->num_segments;
    MimoSegment segments[mimo::kMostTogether];
    std::copy(batch->segments, batch->segments + count, segments);
    MimoBatch next = *batch;
    next.segments = segments;
    for (int64_t done = 1;; ++done) {
        mimo_step(model, &next);
        const int64_t* tokens = next.likeliest;
        const bool ends = std::any_of(tokens, tokens + count, [&](int64_t token) {
            return token < 0 || std::find(stops, stops + num_stops, token) != stops + num_stops;
        });
        if (ends || done == most) return done;
        next.ids = tokens;
        next.likeliest += count;
        next.hidden += count * model->hidden_size;
        if (keeps_logits) next.logits += count * model->vocab_size;
        next.experts += count * model->num_expert_layers * model->top_k;
        for (int64_t s = 0; s < count; ++s) ++segments[s].first;
    }
}

void mimo_predict(const MimoModel* model, const MimoBatch* batch) {
    if (batch->cache_storage == kBf16) mimo::Step<uint16_t>(*model, *batch).predict();
    else mimo::Step<float>(*model, *batch).predict();
}
