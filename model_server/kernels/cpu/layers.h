// Norms, rotation and routing.
#pragma once

#include "interface.h"
#include "vector.h"

namespace mimo {

// Root mean square norm of one row; `to` may be `from`.
inline void norm_row(const float* from, const float* weight, int64_t size, float eps, float* to) {
    v16 sums[4] = {};
    for (int64_t i = 0; i < size; i += 16) {
        const v16 x = load_some(from + i, (int)(size - i < 16 ? size - i : 16));
        sums[i / 16 % 4] = fma(x, x, sums[i / 16 % 4]);
    }
    const float square = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    const v16 scale = all(1.0f / __builtin_sqrtf(square / (float)size + eps));
    for (int64_t i = 0; i < size; i += 16) {
        const int count = (int)(size - i < 16 ? size - i : 16);
        store_some(to + i, load_some(from + i, count) * scale * load_some(weight + i, count), count);
    }
}

// Turns the leading dimensions of a head at one position; `scale` multiplies the whole head.
inline void rotate(float* x, const float* cos, const float* sin, int64_t half, int64_t size, float scale) {
    for (int64_t d = 0; d < half; ++d) {
        const float first = x[d] * scale, second = x[half + d] * scale;
        x[d] = __builtin_fmaf(first, cos[d], -(second * sin[d]));
        x[half + d] = __builtin_fmaf(second, cos[d], first * sin[d]);
    }
    for (int64_t d = 2 * half; d < size; ++d) x[d] *= scale;
}

// Experts of one row and their shares. `scores` [num_experts] are the router's outputs and are overwritten with their
// sigmoids. Chosen is by score plus bias, ties to the lowest id, shares are of the scores alone; their sum goes by id,
// so that a forced route in another order gives the same shares.
inline void choose_experts(const MimoModel& model, const float* bias, const uint8_t* forced, float* scores,
                           uint8_t* ids, float* shares) {
    const int num_experts = (int)model.num_experts, top_k = (int)model.top_k;
    for (int e = 0; e < num_experts; e += 16) {
        const v16 x = load(scores + e);
        store(scores + e, all(1.0f) / (all(1.0f) + exp2(x * all(-kLog2E))));
    }
    bool free = forced == nullptr;
    if (!free) {
        free = true;
        for (int k = 0; k < top_k; ++k) free &= forced[k] == 255;
    }
    bool taken[256] = {};
    for (int k = 0; k < top_k; ++k) {
        int best = -1;
        if (!free) {
            best = forced[k];
        } else {
            float highest = 0;
            for (int e = 0; e < num_experts; ++e) {
                const float value = scores[e] + bias[e];
                if (!taken[e] && (best < 0 || value > highest)) best = e, highest = value;
            }
        }
        taken[best] = true;
        ids[k] = (uint8_t)best;
    }
    float total = 0;
    for (int e = 0; e < num_experts; ++e)
        if (taken[e]) total += scores[e];
    for (int k = 0; k < top_k; ++k) {
        const float share = model.normalise ? scores[ids[k]] / (total + 1e-20f) : scores[ids[k]];
        shares[k] = share * model.scaling;
    }
}

}  // namespace mimo
