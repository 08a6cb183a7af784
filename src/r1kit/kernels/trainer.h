// Forward and backward passes of the decoder over packed sequences, for training: one thread, one call a micro-batch.
//
// What the backward pass needs is kept in the caller's workspace; gradients are added up in float32.
#pragma once

#include <algorithm>
#include <cfloat>

#include "model.h"

namespace r1 {

// Where the activations of N tokens lie in a workspace.
struct Kept {
  float *x, *inverse, *y, *inverse_mlp, *lse;
  bf16 *normed, *qkv, *mixed, *normed_mlp, *gate_up, *act;
};

struct Workspace {
  std::vector<Kept> layers;
  float *last, *inverse;
  int rows;  // N and the rows that blocks read beyond it

  Workspace(const Model& m, int N, char* memory) : rows(padded(N, ROWS_TOGETHER) + SIDE) { bytes_ = place(m, N, memory); }
  static size_t bytes(const Model& m, int N) { return Workspace(m, N, nullptr).bytes_; }

 private:
  size_t bytes_ = 0;

  size_t place(const Model& m, int N, char* memory) {
    size_t at = 0;
    auto floats = [&](size_t n) {
      float* here = reinterpret_cast<float*>(memory + at);
      at += (4 * n + 63) / 64 * 64;
      return here;
    };
    auto halves = [&](size_t n) {
      bf16* here = reinterpret_cast<bf16*>(memory + at);
      at += (2 * n + 63) / 64 * 64;
      return here;
    };
    const size_t n = N, r = rows, hidden = m.shape.hidden;
    for (int i = 0; i < m.shape.layers; i++) {
      Kept k;
      k.x = floats(n * hidden);
      k.inverse = floats(n);
      k.y = floats(n * hidden);
      k.inverse_mlp = floats(n);
      k.lse = floats(n * m.shape.heads);
      k.normed = halves(r * hidden);
      k.qkv = halves(r * m.width);
      k.mixed = halves(r * m.queries);
      k.normed_mlp = halves(r * hidden);
      k.gate_up = halves(r * 2 * m.shape.inner);
      k.act = halves(r * m.shape.inner);
      layers.push_back(k);
    }
    last = floats(n * hidden);
    inverse = floats(n);
    return at;
  }
};

struct Tokens {
  int count;
  const int32_t *ids, *positions;
  int sequences;
  const int32_t* starts;   // [sequences + 1]
  const float *cos, *sin;  // [T, D / 2]
};

struct TrainScratch {
  Buffer<float> wide, scores, dx, dq, dk, dv, delta;
  Buffer<bf16> a, b, c, d, e, f, probs, strip, strip_grad, turned, dxb, dxb_mlp, dgate_up, dmixed, dqkv, left, right;
};

// ---- attention of one sequence and one query head

inline void attention_forward(const Model& m, const Kept& k, int start, int T, int head, TrainScratch& w) {
  const int dim = m.shape.head_dim, steps = dim / 32, long_T = padded(T);
  const bf16* q = k.qkv + static_cast<int64_t>(start) * m.width + head * dim;
  const int64_t tile = static_cast<int64_t>(steps) * TILE, vsteps = long_T / 32;
  const bf16 *keys = w.a.get(), *values = w.b.get();  // packed by the caller, for all heads of the group
  float* s = w.scores.reserve(static_cast<size_t>(SIDE) * long_T);
  bf16* p = w.probs.reserve(static_cast<size_t>(SIDE) * long_T);
  alignas(64) float o[SIDE * SIDE];
  for (int r = 0; r < T; r += SIDE) {
    const Left left = rows_of(q + static_cast<int64_t>(r) * m.width, m.width);
    const int reach = r + SIDE;
    for (int c = 0; c < reach; c += SIDE)
      block(left, keys + (c / 16) * tile, keys + (c / 16 + 1) * tile, steps, s + c, s + c + 16 * long_T, long_T, false);
    float scale[SIDE];
    for (int i = 0; i < SIDE; i++) {
      const int known = std::min(r + i + 1, T);
      float* row = s + static_cast<int64_t>(i) * long_T;
      const __m512 low = _mm512_set1_ps(-FLT_MAX);
      __m512 most = low, sum = _mm512_setzero_ps();
      for (int j = 0; j < known; j += 16)
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(low, first(known - j), row + j));
      const float top = _mm512_reduce_max_ps(most);
      for (int j = 0; j < reach; j += 16) {
        const __mmask16 mask = known > j ? first(known - j) : 0;
        __m512 e = _mm512_setzero_ps();
        if (mask)
          e = _mm512_maskz_mov_ps(mask, exponential(_mm512_sub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(top))));
        sum = _mm512_add_ps(sum, e);
        store_bf16(p + static_cast<int64_t>(i) * long_T + j, e);
      }
      const float total = _mm512_reduce_add_ps(sum);
      scale[i] = 1.0f / total;
      if (r + i < T) k.lse[static_cast<int64_t>(start + r + i) * m.shape.heads + head] = top + std::log(total);
    }
    for (int d = 0; d < dim; d += SIDE) {
      const bf16* v = values + (d / 16) * vsteps * TILE;
      block(rows_of(p, long_T), v, v + vsteps * TILE, reach / 32, o, o + 16 * SIDE, SIDE, false);
      for (int i = 0; i < SIDE && r + i < T; i++) {
        bf16* to = k.mixed + static_cast<int64_t>(start + r + i) * m.queries + head * dim + d;
        for (int j = 0; j < SIDE; j += 16)
          store_bf16(to + j, _mm512_mul_ps(_mm512_load_ps(o + i * SIDE + j), _mm512_set1_ps(scale[i])));
      }
    }
  }
}

// Adds to dk and dv [padded(T), D], sets dq [padded(T), D]. Works on the transposed scores [keys, queries], whose rows
// are the left operands of the key and value gradients as they stand.
inline void attention_backward(const Model& m, const Kept& k, const bf16* dmixed, int start, int T, int head,
                               float* dq, float* dk, float* dv, TrainScratch& w) {
  const int dim = m.shape.head_dim, steps = dim / 32, long_T = padded(T), all = long_T / 32;
  const int kv = head / (m.shape.heads / m.shape.kv_heads);
  const int64_t tile = static_cast<int64_t>(steps) * TILE;
  const bf16* q = k.qkv + static_cast<int64_t>(start) * m.width + head * dim;
  const bf16* keys = k.qkv + static_cast<int64_t>(start) * m.width + m.queries + kv * dim;
  const bf16* values = keys + m.shape.kv_heads * dim;
  const bf16* grad = dmixed + static_cast<int64_t>(start) * m.queries + head * dim;
  const size_t size = static_cast<size_t>(long_T) * dim;
  bf16 *q_columns = w.c.reserve(size), *q_rows = w.d.reserve(size);
  bf16 *grad_columns = w.e.reserve(size), *grad_rows = w.f.reserve(size);
  const bf16* key_rows = w.a.get();  // packed by the caller, for all heads of the group
  pack_columns(q, m.width, T, long_T, dim, q_columns);
  pack_rows(q, m.width, T, dim, all, q_rows);
  pack_columns(grad, m.queries, T, long_T, dim, grad_columns);
  pack_rows(grad, m.queries, T, dim, all, grad_rows);
  float *delta = w.delta.reserve(2 * long_T), *lse = delta + long_T;
  for (int t = 0; t < long_T; t++) {
    delta[t] = lse[t] = 0;
    if (t >= T) continue;
    const bf16 *g = grad + static_cast<int64_t>(t) * m.queries;
    const bf16* o = k.mixed + static_cast<int64_t>(start + t) * m.queries + head * dim;
    __m512 sum = _mm512_setzero_ps();
    for (int j = 0; j < dim; j += 16) sum = _mm512_fmadd_ps(load_bf16(g + j), load_bf16(o + j), sum);
    delta[t] = _mm512_reduce_add_ps(sum);
    lse[t] = k.lse[static_cast<int64_t>(start + t) * m.shape.heads + head];
  }
  std::memset(dq, 0, 4 * size);
  bf16* strip = w.strip.reserve(static_cast<size_t>(SIDE) * long_T);
  bf16* strip_grad = w.strip_grad.reserve(static_cast<size_t>(SIDE) * long_T);
  bf16* turned = w.turned.reserve(2 * TILE);
  alignas(64) float s[SIDE * SIDE], dp[SIDE * SIDE];
  for (int c = 0; c < T; c += SIDE) {
    const Left key_block = rows_of(keys + static_cast<int64_t>(c) * m.width, m.width);
    const Left value_block = rows_of(values + static_cast<int64_t>(c) * m.width, m.width);
    for (int r = c; r < T; r += SIDE) {
      const int64_t at = (r / 16) * tile;
      block(key_block, q_columns + at, q_columns + at + tile, steps, s, s + 16 * SIDE, SIDE, false);
      block(value_block, grad_columns + at, grad_columns + at + tile, steps, dp, dp + 16 * SIDE, SIDE, false);
      for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j += 16) {
          // query r + j + lane sees key c + i where it is not before it; what is beyond the sequence sees nothing
          const int from = std::max(0, c + i - (r + j)), to = std::min(16, T - (r + j));
          __mmask16 seen = 0;
          if (c + i < T && from < to) seen = static_cast<__mmask16>(first(to) & ~((1u << from) - 1));
          __m512 p = _mm512_setzero_ps(), g = p;
          if (seen) {
            p = _mm512_maskz_mov_ps(
                seen, exponential(_mm512_sub_ps(_mm512_load_ps(s + i * SIDE + j), _mm512_loadu_ps(lse + r + j))));
            g = _mm512_maskz_mov_ps(
                seen, _mm512_mul_ps(p, _mm512_sub_ps(_mm512_load_ps(dp + i * SIDE + j), _mm512_loadu_ps(delta + r + j))));
          }
          store_bf16(strip + static_cast<int64_t>(i) * long_T + r + j, p);
          store_bf16(strip_grad + static_cast<int64_t>(i) * long_T + r + j, g);
        }
      pack_transposed(strip_grad + r, long_T, SIDE, SIDE, 1, turned);
      const Left queries{turned, turned + TILE, 64, 2 * TILE};
      for (int d = 0; d < dim; d += SIDE) {
        const bf16* b = key_rows + (static_cast<int64_t>(d / 16) * all + c / 32) * TILE;
        float* to = dq + static_cast<int64_t>(r) * dim + d;
        block(queries, b, b + static_cast<int64_t>(all) * TILE, 1, to, to + 16 * dim, dim, true);
      }
    }
    const int from = c / 32;
    for (int d = 0; d < dim; d += SIDE) {
      const int64_t at = (static_cast<int64_t>(d / 16) * all + from) * TILE, next = static_cast<int64_t>(all) * TILE;
      float *key = dk + static_cast<int64_t>(c) * dim + d, *value = dv + static_cast<int64_t>(c) * dim + d;
      block(rows_of(strip_grad + c, long_T), q_rows + at, q_rows + at + next, all - from, key, key + 16 * dim, dim, true);
      block(rows_of(strip + c, long_T), grad_rows + at, grad_rows + at + next, all - from, value, value + 16 * dim, dim,
            true);
    }
  }
}

// ---- forward

// One micro-batch on its way forward.
struct ForwardPass {
  const Model& m;
  const Tokens& t;
  const Workspace& kept;
  TrainScratch& w;
  const int hidden = m.shape.hidden, dim = m.shape.head_dim, inner = m.shape.inner;

  template <class T>
  T* row(T* first, int64_t i, int width) const {
    return first + i * width;
  }

  void embed() {
    for (int i = 0; i < t.count; i++)
      std::memcpy(row(kept.layers[0].x, i, hidden), row(m.embedding, t.ids[i], hidden), 4 * static_cast<size_t>(hidden));
  }

  void project(const Layer& l, const Kept& k, int start, int n) {
    float* wide = w.wide.reserve(static_cast<size_t>(ROWS_TOGETHER) * m.width);
    for (int i = start; i < start + n; i++)
      k.inverse[i] = rms_norm(row(k.x, i, hidden), l.input_norm, hidden, m.shape.eps, row(k.normed, i, hidden));
    multiply(row(k.normed, start, hidden), hidden, n, l.qkv, padded(m.width), hidden, [&](int r, int c, const float* out) {
      for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j += 16)
          _mm512_storeu_ps(row(wide, r + i, m.width) + c + j, _mm512_load_ps(out + i * SIDE + j));
    });
    for (int i = 0; i < n; i++) {
      const int64_t turn = static_cast<int64_t>(t.positions[start + i]) * (dim / 2);
      finish_qkv(m, l, row(wide, i, m.width), t.cos + turn, t.sin + turn, row(k.qkv, start + i, m.width));
    }
  }

  void attend(const Kept& k, int start, int T) {
    const int long_T = padded(T), group = m.shape.heads / m.shape.kv_heads;
    const size_t size = static_cast<size_t>(long_T) * dim;
    for (int h = 0; h < m.shape.kv_heads; h++) {
      const bf16* keys = row(k.qkv, start, m.width) + m.queries + h * dim;
      pack_columns(keys, m.width, T, long_T, dim, w.a.reserve(size));
      pack_rows(keys + m.shape.kv_heads * dim, m.width, T, dim, long_T / 32, w.b.reserve(size));
      for (int g = 0; g < group; g++) attention_forward(m, k, start, T, h * group + g, w);
    }
  }

  // to = from + a W^T, for n tokens
  void add_product(const bf16* a, int width, const bf16* weight, const float* from, float* to, int start, int n) {
    multiply(row(a, start, width), width, n, weight, hidden, width, [&](int r, int c, const float* out) {
      for (int i = 0; i < SIDE && r + i < n; i++)
        for (int j = 0; j < SIDE; j += 16) {
          const int64_t place = static_cast<int64_t>(start + r + i) * hidden + c + j;
          _mm512_storeu_ps(to + place,
                           _mm512_add_ps(_mm512_loadu_ps(from + place), _mm512_load_ps(out + i * SIDE + j)));
        }
    });
  }

  void activate(const Layer& l, const Kept& k, int start, int n) {
    for (int i = start; i < start + n; i++)
      k.inverse_mlp[i] = rms_norm(row(k.y, i, hidden), l.post_norm, hidden, m.shape.eps, row(k.normed_mlp, i, hidden));
    multiply(row(k.normed_mlp, start, hidden), hidden, n, l.gate_up, 2 * inner, hidden,
             [&](int r, int c, const float* out) {
               for (int i = 0; i < SIDE && r + i < n; i++) {
                 const __m512 gate = _mm512_load_ps(out + i * SIDE), up = _mm512_load_ps(out + i * SIDE + 16);
                 store_bf16(row(k.gate_up, start + r + i, 2 * inner) + c, gate);
                 store_bf16(row(k.gate_up, start + r + i, 2 * inner) + c + 16, up);
                 store_bf16(row(k.act, start + r + i, inner) + c / 2, silu_times(gate, up));
               }
             });
  }
};

inline void train_forward(const Model& m, const Tokens& t, const Workspace& kept, float* out, TrainScratch& w) {
  ForwardPass pass{m, t, kept, w};
  const int N = t.count, hidden = m.shape.hidden, layers = m.shape.layers;
  pass.embed();
  for (int at = 0; at < layers; at++) {
    const Layer& l = m.layers[at];
    const Kept& k = kept.layers[at];
    float* next = at + 1 < layers ? kept.layers[at + 1].x : kept.last;
    for (int start = 0; start < N; start += ROWS_TOGETHER) pass.project(l, k, start, std::min(ROWS_TOGETHER, N - start));
    for (int s = 0; s < t.sequences; s++) pass.attend(k, t.starts[s], t.starts[s + 1] - t.starts[s]);
    for (int start = 0; start < N; start += ROWS_TOGETHER) {
      const int n = std::min(ROWS_TOGETHER, N - start);
      pass.add_product(k.mixed, m.queries, l.out, k.x, k.y, start, n);
      pass.activate(l, k, start, n);
      pass.add_product(k.act, m.shape.inner, l.down, k.y, next, start, n);
    }
  }
  for (int i = 0; i < N; i++)
    kept.inverse[i] = rms_norm_wide(pass.row(kept.last, i, hidden), m.final_norm, hidden, m.shape.eps,
                                    pass.row(out, i, hidden));
}

// ---- backward

// Tokens whose gradients are added up at a time: enough that weights' gradients are seldom loaded, few enough that what
// belongs to the tokens is still in the second-level cache.
constexpr int CHUNK = 512;

// dW [N, K] += dY^T X over M <= CHUNK tokens; row n of dW is at rows(n), which is asked for every 16th.
template <class Rows>
inline void accumulate(const bf16* dy, int64_t dy_width, int N, const bf16* x, int64_t x_width, int K, int M, Rows rows,
                       TrainScratch& w) {
  const int steps = padded(M) / 32;
  bf16* left = w.left.reserve(static_cast<size_t>(N) * CHUNK);
  bf16* right = w.right.reserve(static_cast<size_t>(K) * CHUNK);
  pack_transposed(dy, dy_width, M, N, steps, left);
  pack_rows(x, x_width, M, K, steps, right);
  const int64_t tile = static_cast<int64_t>(steps) * TILE;
  for (int n = 0; n < N; n += SIDE) {
    const bf16* a = left + (n / 16) * tile;
    float *upper = rows(n), *lower = rows(n + 16);
    for (int k = 0; k < K; k += SIDE) {
      const bf16* b = right + (k / 16) * tile;
      block({a, a + tile, 64, 2 * TILE}, b, b + tile, steps, upper + k, lower + k, K, true);
    }
  }
}

// dx += the gradient through an RMS norm of x whose output's is `grad`; dweight too.
inline void norm_backward(const float* x, float inverse, const float* weight, const float* grad, int n, float* dx,
                          float* dweight) {
  __m512 sum = _mm512_setzero_ps();
  const __m512 scale = _mm512_set1_ps(inverse);
  for (int i = 0; i < n; i += 16) {
    const __m512 along = _mm512_mul_ps(_mm512_loadu_ps(grad + i), _mm512_mul_ps(_mm512_loadu_ps(x + i), scale));
    _mm512_storeu_ps(dweight + i, _mm512_add_ps(_mm512_loadu_ps(dweight + i), along));
    sum = _mm512_fmadd_ps(along, _mm512_loadu_ps(weight + i), sum);
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n);
  for (int i = 0; i < n; i += 16) {
    const __m512 unit = _mm512_mul_ps(_mm512_loadu_ps(x + i), scale);
    const __m512 own = _mm512_mul_ps(_mm512_loadu_ps(grad + i), _mm512_loadu_ps(weight + i));
    const __m512 d = _mm512_mul_ps(scale, _mm512_fnmadd_ps(unit, mean, own));
    _mm512_storeu_ps(dx + i, _mm512_add_ps(_mm512_loadu_ps(dx + i), d));
  }
}

// Gradients in Hugging Face's order (as `Model::load` takes weights; the head is not among them), all added to.
struct Gradients {
  float *embedding, *final_norm;
  struct OfLayer {
    float *input_norm, *q, *k, *v, *out, *post_norm, *gate, *up, *down, *q_bias, *k_bias, *v_bias;
  };
  std::vector<OfLayer> layers;
};

inline void rotate_back(const float* grad, const float* cos, const float* sin, int dim, float scale, bf16* out) {
  const int half = dim / 2;
  const __m512 s = _mm512_set1_ps(scale);
  for (int i = 0; i < half; i += 16) {
    const __m512 a = _mm512_loadu_ps(grad + i), b = _mm512_loadu_ps(grad + half + i);
    const __m512 c = _mm512_loadu_ps(cos + i), d = _mm512_loadu_ps(sin + i);
    store_bf16(out + i, _mm512_mul_ps(s, _mm512_fmadd_ps(a, c, _mm512_mul_ps(b, d))));
    store_bf16(out + half + i, _mm512_mul_ps(s, _mm512_fmsub_ps(b, c, _mm512_mul_ps(a, d))));
  }
}

// One micro-batch on its way back. `dx` is the gradient of the residual stream.
struct BackwardPass {
  const Model& m;
  const Tokens& t;
  const Workspace& kept;
  TrainScratch& w;
  const int hidden = m.shape.hidden, dim = m.shape.head_dim, inner = m.shape.inner, keys = m.shape.kv_heads * dim;
  const size_t rows = kept.rows;
  float* dx = w.dx.reserve(rows * hidden);
  float* wide = w.wide.reserve(static_cast<size_t>(ROWS_TOGETHER) * std::max(hidden, m.width));
  bf16* dxb = w.dxb.reserve(static_cast<size_t>(CHUNK) * hidden);  // dx, rounded, after and before the feed-forward part
  bf16* dxb_mlp = w.dxb_mlp.reserve(static_cast<size_t>(CHUNK) * hidden);
  bf16* dgate_up = w.dgate_up.reserve(static_cast<size_t>(CHUNK) * 2 * inner);
  bf16* dmixed = w.dmixed.reserve(rows * m.queries);
  bf16* dqkv = w.dqkv.reserve(rows * m.width);

  template <class T>
  T* row(T* first, int64_t i, int width) const {
    return first + i * width;
  }

  // wide = dy W for n tokens
  void back_through(const bf16* dy, int width, const bf16* weight, int n) {
    multiply(dy, width, n, weight, hidden, width, [&](int r, int c, const float* out) {
      for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j += 16)
          _mm512_storeu_ps(row(wide, r + i, hidden) + c + j, _mm512_load_ps(out + i * SIDE + j));
    });
  }

  // Through the feed-forward part and the attention's output, for n tokens from `start`, which is `place` in its chunk.
  void mlp_tile(const Layer& l, const Kept& k, const Gradients::OfLayer& g, int start, int n, int place) {
    for (int i = 0; i < n; i++) split(row(dx, start + i, hidden), hidden, row(dxb_mlp, place + i, hidden), nullptr);
    multiply(row(dxb_mlp, place, hidden), hidden, n, l.down_back, inner, hidden, [&](int r, int c, const float* out) {
      for (int i = 0; i < SIDE && r + i < n; i++)
        for (int j = 0; j < SIDE; j += 16) {
          const bf16* known = row(k.gate_up, start + r + i, 2 * inner) + 2 * (c + j);
          bf16* to = row(dgate_up, place + r + i, 2 * inner) + 2 * (c + j);
          const __m512 gate = load_bf16(known), up = load_bf16(known + 16);
          const __m512 d = _mm512_load_ps(out + i * SIDE + j), half = sigmoid(gate), silu = _mm512_mul_ps(gate, half);
          // d silu(x) / dx = s + x s (1 - s)
          const __m512 slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(_mm512_set1_ps(1.0f), half), half);
          store_bf16(to, _mm512_mul_ps(_mm512_mul_ps(d, up), slope));
          store_bf16(to + 16, _mm512_mul_ps(d, silu));
        }
    });
    back_through(row(dgate_up, place, 2 * inner), 2 * inner, l.gate_up_back, n);
    for (int i = 0; i < n; i++) {
      norm_backward(row(k.y, start + i, hidden), k.inverse_mlp[start + i], l.post_norm, row(wide, i, hidden), hidden,
                    row(dx, start + i, hidden), g.post_norm);
      split(row(dx, start + i, hidden), hidden, row(dxb, place + i, hidden), nullptr);
    }
    multiply(row(dxb, place, hidden), hidden, n, l.out_back, m.queries, hidden, [&](int r, int c, const float* out) {
      for (int i = 0; i < SIDE && r + i < n; i++)
        split(out + i * SIDE, SIDE, row(dmixed, start + r + i, m.queries) + c, nullptr);
    });
  }

  void mlp_chunk(const Layer& l, const Kept& k, const Gradients::OfLayer& g, int chunk, int n) {
    for (int place = 0; place < n; place += ROWS_TOGETHER)
      mlp_tile(l, k, g, chunk + place, std::min(ROWS_TOGETHER, n - place), place);
    accumulate(dxb_mlp, hidden, hidden, row(k.act, chunk, inner), inner, inner, n,
               [&](int r) { return row(g.down, r, inner); }, w);
    accumulate(dgate_up, 2 * inner, 2 * inner, row(k.normed_mlp, chunk, hidden), hidden, hidden, n,
               [&](int r) { return row(r % 32 ? g.up : g.gate, r / 32 * 16, hidden); }, w);
    accumulate(dxb, hidden, hidden, row(k.mixed, chunk, m.queries), m.queries, m.queries, n,
               [&](int r) { return row(g.out, r, m.queries); }, w);
  }

  // From dmixed to dqkv, rotated back, of one sequence.
  void attention(const Kept& k, int start, int T) {
    const int long_T = padded(T), group = m.shape.heads / m.shape.kv_heads, heads = m.shape.heads;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const size_t size = static_cast<size_t>(long_T) * dim;
    float *dq = w.dq.reserve(size), *dk = w.dk.reserve(size), *dv = w.dv.reserve(size);
    auto turn_back = [&](const float* grad, int head, float factor) {
      for (int i = 0; i < T; i++) {
        const int64_t turn = static_cast<int64_t>(t.positions[start + i]) * (dim / 2);
        rotate_back(row(grad, i, dim), t.cos + turn, t.sin + turn, dim, factor,
                    row(dqkv, start + i, m.width) + head * dim);
      }
    };
    for (int h = 0; h < m.shape.kv_heads; h++) {
      pack_rows(row(k.qkv, start, m.width) + m.queries + h * dim, m.width, T, dim, long_T / 32, w.a.reserve(size));
      std::memset(dk, 0, 4 * size);
      std::memset(dv, 0, 4 * size);
      for (int g = 0; g < group; g++) {
        attention_backward(m, k, dmixed, start, T, h * group + g, dq, dk, dv, w);
        turn_back(dq, h * group + g, scale);
      }
      turn_back(dk, heads + h, 1.0f);
      for (int i = 0; i < T; i++)
        split(row(dv, i, dim), dim, row(dqkv, start + i, m.width) + m.queries + keys + h * dim, nullptr);
    }
  }

  void projection_chunk(const Layer& l, const Kept& k, const Gradients::OfLayer& g, int chunk, int n) {
    const bf16* here = row(dqkv, chunk, m.width);
    for (int place = 0; place < n; place += ROWS_TOGETHER) {
      const int tile = std::min(ROWS_TOGETHER, n - place), start = chunk + place;
      back_through(row(here, place, m.width), m.width, l.qkv_back, tile);
      for (int i = 0; i < tile; i++)
        norm_backward(row(k.x, start + i, hidden), k.inverse[start + i], l.input_norm, row(wide, i, hidden), hidden,
                      row(dx, start + i, hidden), g.input_norm);
    }
    auto part = [&](int r, float* q, float* key, float* v, int width) {
      if (r < m.queries) return row(q, r, width);
      return r < m.queries + keys ? row(key, r - m.queries, width) : row(v, r - m.queries - keys, width);
    };
    accumulate(here, m.width, m.width, row(k.normed, chunk, hidden), hidden, hidden, n,
               [&](int r) { return part(r, g.q, g.k, g.v, hidden); }, w);
    for (int i = 0; i < n && l.qkv_bias; i++)
      for (int j = 0; j < m.width; j += 16) {
        float* to = part(j, g.q_bias, g.k_bias, g.v_bias, 1);
        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), load_bf16(row(here, i, m.width) + j)));
      }
  }
};

inline void train_backward(const Model& m, const Tokens& t, const Workspace& kept, const float* grad_out,
                           const Gradients& into, TrainScratch& w) {
  BackwardPass pass{m, t, kept, w};
  const int N = t.count, hidden = m.shape.hidden;
  std::memset(pass.dx, 0, 4 * static_cast<size_t>(N) * hidden);
  for (int i = 0; i < N; i++)
    norm_backward(pass.row(kept.last, i, hidden), kept.inverse[i], m.final_norm, pass.row(grad_out, i, hidden), hidden,
                  pass.row(pass.dx, i, hidden), into.final_norm);
  for (int at = m.shape.layers - 1; at >= 0; at--) {
    const Layer& l = m.layers[at];
    const Kept& k = kept.layers[at];
    const Gradients::OfLayer& g = into.layers[at];
    for (int chunk = 0; chunk < N; chunk += CHUNK) pass.mlp_chunk(l, k, g, chunk, std::min(CHUNK, N - chunk));
    for (int s = 0; s < t.sequences; s++) pass.attention(k, t.starts[s], t.starts[s + 1] - t.starts[s]);
    for (int chunk = 0; chunk < N; chunk += CHUNK) pass.projection_chunk(l, k, g, chunk, std::min(CHUNK, N - chunk));
  }
  for (int i = 0; i < N; i++) {
    float *to = pass.row(into.embedding, t.ids[i], hidden), *from = pass.row(pass.dx, i, hidden);
    for (int j = 0; j < hidden; j += 16)
      _mm512_storeu_ps(to + j, _mm512_add_ps(_mm512_loadu_ps(to + j), _mm512_loadu_ps(from + j)));
  }
}

// ---- log-probabilities through the head

struct HeadScratch {
  Buffer<float> logits, whole;
  Buffer<bf16> high, low, grads;
  TrainScratch train;
};

// Log-probability of the targets and entropy, in nats, of softmax(h W^T / temperature), and the log of its denominator.
inline void head_forward(const Model& m, const float* h, int M, const int32_t* targets, float temperature, float* logprob,
                         float* entropy, float* lse, HeadScratch& w) {
  const int hidden = m.shape.hidden, V = m.shape.vocab;
  bf16* high = w.high.reserve(static_cast<size_t>(ROWS_TOGETHER) * hidden);
  bf16* low = m.head_low ? w.low.reserve(static_cast<size_t>(ROWS_TOGETHER) * hidden) : nullptr;
  float* logits = w.logits.reserve(static_cast<size_t>(ROWS_TOGETHER) * m.vocab);
  const __m512 none = _mm512_set1_ps(-FLT_MAX), inverse = _mm512_set1_ps(1.0f / temperature);
  for (int start = 0; start < M; start += ROWS_TOGETHER) {
    const int n = std::min(ROWS_TOGETHER, M - start);
    for (int i = 0; i < n; i++)
      split(h + static_cast<int64_t>(start + i) * hidden, hidden, high + i * hidden, low ? low + i * hidden : nullptr);
    logits_of(m, high, low, n, logits);
    for (int i = 0; i < n; i++) {
      float* z = logits + static_cast<int64_t>(i) * m.vocab;
      __m512 most = none;
      for (int j = 0; j < V; j += 16) {
        const __m512 scaled = _mm512_mul_ps(_mm512_load_ps(z + j), inverse);
        _mm512_store_ps(z + j, scaled);
        most = _mm512_mask_max_ps(most, first(V - j), most, scaled);
      }
      const float top = _mm512_reduce_max_ps(most);
      __m512 sum = _mm512_setzero_ps(), mean = sum;
      for (int j = 0; j < V; j += 16) {
        const __m512 x = _mm512_sub_ps(_mm512_load_ps(z + j), _mm512_set1_ps(top));
        const __m512 e = _mm512_maskz_mov_ps(first(V - j), exponential(x));
        sum = _mm512_add_ps(sum, e);
        mean = _mm512_fmadd_ps(e, _mm512_max_ps(x, _mm512_set1_ps(-1e4f)), mean);
      }
      const float mass = _mm512_reduce_add_ps(sum), log_mass = std::log(mass);
      lse[start + i] = top + log_mass;
      logprob[start + i] = z[targets[start + i]] - top - log_mass;
      entropy[start + i] = log_mass - _mm512_reduce_add_ps(mean) / mass;
    }
  }
}

// From the gradients of log-probabilities and entropies (either may be null) to those of h [M, H] (set) and of the head's
// weight [V, H] (added to; null: not wanted). d log p(y) / d z_j = [j = y] - p_j; d H / d z_j = -p_j (log p_j + H).
inline void head_backward(const Model& m, const float* h, int M, const int32_t* targets, float temperature,
                          const float* lse, const float* entropy, const float* by_logprob, const float* by_entropy,
                          float* dh, float* dweight, HeadScratch& w) {
  const int hidden = m.shape.hidden, V = m.shape.vocab;
  bf16* high = w.high.reserve(static_cast<size_t>(CHUNK) * hidden);
  bf16* low = m.head_low ? w.low.reserve(static_cast<size_t>(CHUNK) * hidden) : nullptr;
  bf16* grads = w.grads.reserve(static_cast<size_t>(CHUNK) * m.vocab);
  float* logits = w.logits.reserve(static_cast<size_t>(ROWS_TOGETHER) * m.vocab);
  const __m512 inverse = _mm512_set1_ps(1.0f / temperature);
  float* whole = dweight;  // gradients of whole blocks of rows: of a vocabulary that is none, in a place of their own
  if (dweight && V % SIDE) {
    whole = w.whole.reserve(static_cast<size_t>(m.vocab) * hidden);
    std::memset(whole, 0, 4 * static_cast<size_t>(m.vocab) * hidden);
  }
  for (int start = 0; start < M; start += CHUNK) {
    const int known = std::min(CHUNK, M - start);
    for (int i = 0; i < known; i++)
      split(h + static_cast<int64_t>(start + i) * hidden, hidden, high + i * hidden, low ? low + i * hidden : nullptr);
    for (int from = 0; from < known; from += ROWS_TOGETHER) {
      const int n = std::min(ROWS_TOGETHER, known - from);
      logits_of(m, high + from * hidden, low ? low + from * hidden : nullptr, n, logits);
      for (int i = 0; i < n; i++) {
        const int at = start + from + i;
        const float* z = logits + static_cast<int64_t>(i) * m.vocab;
        bf16* to = grads + static_cast<int64_t>(from + i) * m.vocab;
        const float a = by_logprob ? by_logprob[at] / temperature : 0, b = by_entropy ? by_entropy[at] / temperature : 0;
        const __m512 minus_lse = _mm512_set1_ps(-lse[at]), minus_a = _mm512_set1_ps(-a), minus_b = _mm512_set1_ps(-b);
        const __m512 spread = _mm512_set1_ps(entropy[at]);
        for (int j = 0; j < m.vocab; j += 16) {
          const __m512 log_p = _mm512_max_ps(_mm512_fmadd_ps(_mm512_load_ps(z + j), inverse, minus_lse), _mm512_set1_ps(-1e4f));
          const __m512 p = exponential(log_p);
          __m512 d = _mm512_mul_ps(p, _mm512_fmadd_ps(minus_b, _mm512_add_ps(log_p, spread), minus_a));
          if (targets[at] >= j && targets[at] < j + 16)
            d = _mm512_mask_add_ps(d, static_cast<__mmask16>(1u << (targets[at] - j)), d, _mm512_set1_ps(a));
          store_bf16(to + j, _mm512_maskz_mov_ps(V > j ? first(V - j) : 0, d));
        }
      }
    }
    multiply(grads, m.vocab, known, m.head_back, hidden, m.vocab, [&](int r, int c, const float* block) {
      for (int i = 0; i < SIDE && r + i < known; i++)
        for (int j = 0; j < SIDE; j += 16)
          _mm512_storeu_ps(dh + static_cast<int64_t>(start + r + i) * hidden + c + j, _mm512_load_ps(block + i * SIDE + j));
    });
    if (dweight)
      accumulate(grads, m.vocab, m.vocab, high, hidden, hidden, known,
                 [&](int n) { return whole + static_cast<int64_t>(n) * hidden; }, w.train);
  }
  if (dweight && whole != dweight)
    for (int64_t i = 0; i < static_cast<int64_t>(V) * hidden; i += 16)
      _mm512_storeu_ps(dweight + i, _mm512_add_ps(_mm512_loadu_ps(dweight + i), _mm512_loadu_ps(whole + i)));
}

}  // namespace r1
