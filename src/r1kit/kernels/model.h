// The weights of a Llama, Qwen2 or Qwen3 model as the kernels read them: products' operands packed in bfloat16, the rest
// in float32.
#pragma once

#include <cstdlib>
#include <new>
#include <vector>

#include "tiles.h"

namespace r1 {

// A 64-byte aligned array that never moves its values when it grows: what was there is lost.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n) { reserve(n); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr, other.size_ = 0; }
  ~Buffer() { std::free(data_); }
  T* reserve(size_t n) {
    if (n > size_) {
      std::free(data_);
      const size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
      data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
      if (!data_) throw std::bad_alloc();
      std::memset(data_, 0, bytes);
      size_ = n;
    }
    return data_;
  }
  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

struct R1Shape {
  int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab;
  int32_t qkv_bias, head_norm, wide_head, backward;
  float eps;
};

struct Layer {
  const float *input_norm, *post_norm, *q_norm, *k_norm, *qkv_bias;
  const bf16 *qkv, *out, *gate_up, *down;                      // for X W^T
  const bf16 *qkv_back, *out_back, *gate_up_back, *down_back;  // for dY W
};

struct Model {
  R1Shape shape;
  int queries, width, vocab;  // heads * head_dim; (heads + 2 kv_heads) * head_dim; vocab padded to whole blocks
  const float *embedding, *final_norm;
  const bf16 *head, *head_low, *head_back;
  std::vector<Layer> layers;
  std::vector<Buffer<float>> floats;
  std::vector<Buffer<bf16>> halves;

  explicit Model(const R1Shape& s)
      : shape(s), queries(s.heads * s.head_dim), width((s.heads + 2 * s.kv_heads) * s.head_dim), vocab(padded(s.vocab)) {
    const int hidden = s.hidden;
    embedding = floats_of(static_cast<size_t>(s.vocab) * hidden);
    final_norm = floats_of(hidden);
    head = halves_of(vocab, hidden);
    head_low = s.wide_head ? halves_of(vocab, hidden) : nullptr;
    head_back = s.backward ? halves_of(vocab, hidden) : nullptr;
    for (int i = 0; i < s.layers; i++) {
      Layer l{};
      l.input_norm = floats_of(hidden);
      l.post_norm = floats_of(hidden);
      l.q_norm = s.head_norm ? floats_of(s.head_dim) : nullptr;
      l.k_norm = s.head_norm ? floats_of(s.head_dim) : nullptr;
      l.qkv_bias = s.qkv_bias ? floats_of(width) : nullptr;
      l.qkv = halves_of(width, hidden);
      l.out = halves_of(hidden, queries);
      l.gate_up = halves_of(2 * s.inner, hidden);
      l.down = halves_of(hidden, s.inner);
      if (s.backward) {
        l.qkv_back = halves_of(width, hidden);
        l.out_back = halves_of(hidden, queries);
        l.gate_up_back = halves_of(2 * s.inner, hidden);
        l.down_back = halves_of(hidden, s.inner);
      }
      layers.push_back(l);
    }
  }

  // `source`: float32 weights in Hugging Face's order: embedding, final norm, head, then of each layer input norm, q, k,
  // v, o, post-attention norm, gate, up, down, the biases of q, k and v, the norms of q and k (null where there are none).
  void load(const float* const* source) {
    const int hidden = shape.hidden, dim = shape.head_dim, keys = shape.kv_heads * dim, inner = shape.inner;
    copy(embedding, source[0], static_cast<size_t>(shape.vocab) * hidden);
    copy(final_norm, source[1], hidden);
    load_head(source[2]);
    source += 3;
    for (Layer& l : layers) {
      copy(l.input_norm, source[0], hidden);
      bf16* rows = scratch_.reserve(static_cast<size_t>(padded(2 * inner > width ? 2 * inner : width)) * wide());
      round(source[1], queries, hidden, rows);
      round(source[2], keys, hidden, rows + static_cast<size_t>(queries) * hidden);
      round(source[3], keys, hidden, rows + static_cast<size_t>(queries + keys) * hidden);
      pack(rows, width, hidden, l.qkv, l.qkv_back);
      round(source[4], hidden, queries, rows);
      pack(rows, hidden, queries, l.out, l.out_back);
      copy(l.post_norm, source[5], hidden);
      for (int j = 0; j < inner; j += 16) {  // 16 of the gate, then 16 of up: a block of 32 columns holds both
        round(source[6] + static_cast<size_t>(j) * hidden, 16, hidden, rows + static_cast<size_t>(2 * j) * hidden);
        round(source[7] + static_cast<size_t>(j) * hidden, 16, hidden, rows + static_cast<size_t>(2 * j + 16) * hidden);
      }
      pack(rows, 2 * inner, hidden, l.gate_up, l.gate_up_back);
      round(source[8], hidden, inner, rows);
      pack(rows, hidden, inner, l.down, l.down_back);
      if (l.qkv_bias) {
        copy(l.qkv_bias, source[9], queries);
        copy(l.qkv_bias + queries, source[10], keys);
        copy(l.qkv_bias + queries + keys, source[11], keys);
      }
      if (l.q_norm) {
        copy(l.q_norm, source[12], dim);
        copy(l.k_norm, source[13], dim);
      }
      source += 14;
    }
  }

 private:
  Buffer<bf16> scratch_;

  int wide() const {
    int most = shape.hidden > queries ? shape.hidden : queries;
    return most > shape.inner ? most : shape.inner;
  }

  const float* floats_of(size_t n) {
    floats.emplace_back(n);
    return floats.back().get();
  }

  const bf16* halves_of(size_t rows, size_t columns) {
    halves.emplace_back(rows * columns);
    return halves.back().get();
  }

  static void copy(const float* to, const float* from, size_t n) { std::memcpy(const_cast<float*>(to), from, 4 * n); }

  static void round(const float* from, size_t rows, size_t columns, bf16* to) {
    for (size_t i = 0; i < rows * columns; i += 16) store_bf16(to + i, _mm512_loadu_ps(from + i));
  }

  // W [N, K] as both operands: of X W^T (its columns) and of dY W (its rows).
  static void pack(const bf16* w, int N, int K, const bf16* forward, const bf16* back) {
    pack_columns(w, K, N, padded(N), K, const_cast<bf16*>(forward));
    if (back) pack_rows(w, K, N, K, padded(N) / 32, const_cast<bf16*>(back));
  }

  // The head in two bfloat16 parts, whose products together are as good as float32's for logits.
  void load_head(const float* from) {
    const int hidden = shape.hidden, rows = shape.vocab;
    bf16* high = scratch_.reserve(static_cast<size_t>(vocab) * hidden);
    std::memset(high, 0, 2 * static_cast<size_t>(vocab) * hidden);
    round(from, rows, hidden, high);
    pack(high, rows, hidden, head, head_back);
    if (!head_low) return;
    for (size_t i = 0; i < static_cast<size_t>(rows) * hidden; i += 16)
      store_bf16(high + i, _mm512_sub_ps(_mm512_loadu_ps(from + i), load_bf16(high + i)));
    pack(high, rows, hidden, head_low, nullptr);
  }
};

// ---- what forward passes share

inline float inverse_rms(const float* x, int n, float eps) {
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < n; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  return 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / n + eps);
}

// A row's RMS norm (arXiv 1910.07467 eq. 4), rounded; returns 1 / rms.
inline float rms_norm(const float* x, const float* weight, int n, float eps, bf16* out) {
  const float inverse = inverse_rms(x, n, eps);
  const __m512 scale = _mm512_set1_ps(inverse);
  for (int i = 0; i < n; i += 16)
    store_bf16(out + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), scale), _mm512_loadu_ps(weight + i)));
  return inverse;
}

inline float rms_norm_wide(const float* x, const float* weight, int n, float eps, float* out) {
  const float inverse = inverse_rms(x, n, eps);
  const __m512 scale = _mm512_set1_ps(inverse);
  for (int i = 0; i < n; i += 16)
    _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), scale), _mm512_loadu_ps(weight + i)));
  return inverse;
}

// Rotary embedding of one head [D] in Hugging Face's order (arXiv 2104.09864 eq. 34, pairs (i, i + D/2)), times `scale`.
inline void rotate(const float* x, const float* cos, const float* sin, int dim, float scale, bf16* out) {
  const int half = dim / 2;
  const __m512 s = _mm512_set1_ps(scale);
  for (int i = 0; i < half; i += 16) {
    const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + half + i);
    const __m512 c = _mm512_loadu_ps(cos + i), d = _mm512_loadu_ps(sin + i);
    store_bf16(out + i, _mm512_mul_ps(s, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, d))));
    store_bf16(out + half + i, _mm512_mul_ps(s, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, d))));
  }
}

// From the products of one token's query, key and value weights to what attention reads: biases, norms of heads,
// rotation; the queries carry the attention's scale 1 / sqrt(D).
inline void finish_qkv(const Model& m, const Layer& l, float* qkv, const float* cos, const float* sin, bf16* out) {
  const int dim = m.shape.head_dim, turning = m.shape.heads + m.shape.kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  if (l.qkv_bias)
    for (int i = 0; i < m.width; i += 16)
      _mm512_storeu_ps(qkv + i, _mm512_add_ps(_mm512_loadu_ps(qkv + i), _mm512_loadu_ps(l.qkv_bias + i)));
  for (int h = 0; h < turning; h++) {
    float* x = qkv + h * dim;
    if (l.q_norm) rms_norm_wide(x, h < m.shape.heads ? l.q_norm : l.k_norm, dim, m.shape.eps, x);
    rotate(x, cos, sin, dim, h < m.shape.heads ? scale : 1.0f, out + h * dim);
  }
  for (int i = turning * dim; i < m.width; i += 16) store_bf16(out + i, _mm512_loadu_ps(qkv + i));
}

inline __m512 silu_times(__m512 gate, __m512 up) { return _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), up); }

// Logits [rows, vocab] (padded) of normed hidden states in one or two bfloat16 parts (`low` null for one).
inline void logits_of(const Model& m, const bf16* high, const bf16* low, int rows, float* logits) {
  const int hidden = m.shape.hidden, steps = hidden / 32;
  for (int n = 0; n < m.vocab; n += SIDE) {
    const int64_t place = static_cast<int64_t>(n / 16) * steps * TILE, next = static_cast<int64_t>(steps) * TILE;
    for (int r = 0; r < rows; r += SIDE) {
      float* c = logits + static_cast<int64_t>(r) * m.vocab + n;
      float* d = c + 16 * static_cast<int64_t>(m.vocab);
      const Left a = rows_of(high + static_cast<int64_t>(r) * hidden, hidden);
      block(a, m.head + place, m.head + place + next, steps, c, d, m.vocab, false);
      if (!m.head_low) continue;
      block(a, m.head_low + place, m.head_low + place + next, steps, c, d, m.vocab, true);
      const Left b = rows_of(low + static_cast<int64_t>(r) * hidden, hidden);
      block(b, m.head + place, m.head + place + next, steps, c, d, m.vocab, true);
    }
  }
}

inline void split(const float* x, int n, bf16* high, bf16* low) {
  for (int i = 0; i < n; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    store_bf16(high + i, v);
    if (low) store_bf16(low + i, _mm512_sub_ps(v, load_bf16(high + i)));
  }
}

}  // namespace r1
