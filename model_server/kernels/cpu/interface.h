// What Python hands over. model_server/kernels/cpu/library.py mirrors these records field by field.
#pragma once

#include <cstdint>

extern "C" {

// How numbers are stored. Everything is computed in f32, but for the products of kBf16Pairs: there the other factor is
// rounded to bf16, and two products are added at once. Only where the processor has such an instruction.
enum MimoStorage : int64_t { kF32 = 0, kBf16 = 1, kFp8 = 2, kBf16Pairs = 3 };

// A matrix of `num_out` rows and `num_in` columns, packed by model_server/kernels/cpu/packing.py into panels of 32
// outputs: for each input, 32 weights side by side. Outputs are padded to whole panels with zeros.
struct MimoMatrix {
    const void* panels;
    const float* scales;  // FP8 only: [panels, ceil(num_in / 128), 32], times 2^120
    int64_t storage;
    int64_t num_in;
    int64_t num_out;
};

// Widths of one kind of attention layer.
struct MimoHeads {
    int64_t num_heads, num_kv_heads, qk_dim, v_dim;
    int64_t half_rotary;      // dimension d turns with d + half_rotary
    int64_t window_keys;      // 0: everything before
    int64_t num_layers;       // of this kind: how many share a page or a ring slot
    const float *cos, *sin;   // [positions, half_rotary]
};

// One decoder layer, or the block of one prediction layer.
struct MimoLayer {
    const float *attention_norm, *mlp_norm;
    const float* sink;        // [num_heads], or null
    MimoMatrix qkv, output;
    int64_t window;           // 1: keys in the ring, 0: in pages
    int64_t cache_layer;      // its index among the layers of its kind
    int64_t has_experts;
    MimoMatrix gate_up, down;  // dense; gate and up alternate in runs of 16 rows
    MimoMatrix router;
    const float* router_bias;
    const MimoMatrix *expert_gate_up, *expert_down;  // [num_experts]
};

// What a prediction layer has beside its block.
struct MimoPrediction {
    const float *embedding_norm, *hidden_norm, *final_norm;
    MimoMatrix projection;
    MimoLayer block;
};

struct MimoModel {
    int64_t hidden_size, vocab_size;
    int64_t num_layers, num_expert_layers, num_predictions;
    int64_t num_experts, top_k, normalise;
    float scaling, eps, value_scale, unused;
    int64_t embedding_storage;
    const void* embedding;    // [vocab_size, hidden_size]
    const float* final_norm;
    MimoMatrix head;
    MimoHeads heads[2];       // global, window
    const MimoLayer* layers;
    const MimoPrediction* predictions;
};

// The next `count` tokens of one sequence; see model_server/kernels/batch.py.
struct MimoSegment {
    int64_t count, first, ring, num_logits;
    int64_t oldest;           // positions before it have no keys
    const int32_t* pages;
    const uint8_t* forced;    // [count, num_expert_layers, top_k], or null
};

struct MimoBatch {
    int64_t num_rows, num_segments;
    const int64_t* ids;
    const MimoSegment* segments;
    int64_t cache_storage;
    void *page_k, *page_v, *ring_k, *ring_v;
    float* hidden;            // out [num_rows, hidden_size]; of a prediction: in, the main model's
    float* logits;            // out [sum of num_logits, vocab_size]
    uint8_t* experts;         // out [num_rows, num_expert_layers, top_k]
    int64_t* likeliest;       // out [sum of num_logits], -1 beside what is not finite; of a prediction: [num_segments]
    int64_t prediction;       // which prediction layer
    void* scratch;            // mimo_scratch_bytes, aligned to 64
    void* crew;               // mimo_new_crew
};

#define MIMO_EXPORT __attribute__((visibility("default")))

// The threads of a step: the caller's own and others that wait for work. For one step at a time.
MIMO_EXPORT void* mimo_new_crew(int64_t num_threads);
MIMO_EXPORT void mimo_end_crew(void* crew);
// Bytes of scratch memory that a step of so many rows takes.
MIMO_EXPORT int64_t mimo_scratch_bytes(const MimoModel* model, const void* crew, int64_t num_rows);
// One step of the whole model.
MIMO_EXPORT void mimo_step(const MimoModel* model, const MimoBatch* batch);
// A batch of at most 64 segments with one row each: that step, then one after the likeliest tokens, until one of them
// is in `stops` or not finite, or `most` are run. Outputs lie step by step; logits are of the last step alone unless
// `keeps_logits`. How many were run; the last tokens were not.
MIMO_EXPORT int64_t mimo_decode(const MimoModel* model, const MimoBatch* batch, int64_t most, const int64_t* stops,
                                int64_t num_stops, int64_t keeps_logits);
// One prediction layer over the rows of a batch, the head and the likeliest tokens.
MIMO_EXPORT void mimo_predict(const MimoModel* model, const MimoBatch* batch);
}
