// The sampler's forward pass over a paged key-value cache, and drawing tokens from logits.
#pragma once

#include <algorithm>
#include <cfloat>
#include <numeric>
#include <stdexcept>

#include "model.h"
#include "pool.h"

namespace r1 {

constexpr int PAGE = 64;  // tokens

// Keys and values of rows of tokens. A page holds 64 tokens of every layer and key-value head: keys in blocks of 16 tokens
// as [D / 2][16][2], values as [32][D][2], so that both products of attention read whole registers.
class Cache {
 public:
  explicit Cache(const R1Shape& s) : shape_(s) {}
  ~Cache() {
    for (bf16* page : all_) std::free(page);
  }

  int add() {
    int row;
    if (free_rows_.empty()) {
      row = static_cast<int>(rows_.size());
      rows_.emplace_back();
    } else {
      row = free_rows_.back();
      free_rows_.pop_back();
    }
    return row;
  }

  void drop(int row) {
    for (bf16* page : rows_[row]) free_.push_back(page);
    rows_[row].clear();
    free_rows_.push_back(row);
  }

  // A new row with the first `length` tokens of another.
  int fork(int from, int length) {
    const int row = add();
    grow(row, length);
    for (size_t i = 0; i < rows_[row].size(); i++) std::memcpy(rows_[row][i], rows_[from][i], page_bytes());
    return row;
  }

  void grow(int row, int length) {
    while (static_cast<int>(rows_[row].size()) * PAGE < length) rows_[row].push_back(page());
  }

  bf16* const* pages(int row) const { return rows_[row].data(); }
  int64_t offset(int layer, int head) const {
    return (static_cast<int64_t>(layer) * shape_.kv_heads + head) * 2 * PAGE * shape_.head_dim;
  }

  // Give back the memory of pages that no row uses.
  void trim() {
    std::sort(free_.begin(), free_.end());
    auto used = [&](bf16* page) { return !std::binary_search(free_.begin(), free_.end(), page); };
    auto kept = std::stable_partition(all_.begin(), all_.end(), used);
    for (auto it = kept; it != all_.end(); ++it) std::free(*it);
    all_.erase(kept, all_.end());
    free_.clear();
  }

 private:
  R1Shape shape_;
  std::vector<bf16*> all_, free_;
  std::vector<std::vector<bf16*>> rows_;
  std::vector<int> free_rows_;

  size_t page_bytes() const { return static_cast<size_t>(offset(shape_.layers, 0)) * sizeof(bf16); }

  bf16* page() {
    bf16* page;
    if (free_.empty()) {
      page = static_cast<bf16*>(std::aligned_alloc(64, page_bytes()));
      if (!page) throw std::bad_alloc();
      all_.push_back(page);
    } else {
      page = free_.back();
      free_.pop_back();
    }
    // what is not written yet is multiplied by a probability of 0: it must be a number
    std::memset(page, 0, page_bytes());
    return page;
  }
};

inline void remember(bf16* keys, bf16* values, int place, int dim, const bf16* k, const bf16* v) {
  bf16* to = keys + (place / 16) * 16 * dim + 2 * (place % 16);
  for (int p = 0; p < dim / 2; p++) std::memcpy(to + 32 * p, k + 2 * p, 4);
  to = values + (place / 2) * 2 * dim + place % 2;
  for (int d = 0; d < dim; d++) to[2 * d] = v[d];
}

inline int pair_at(const bf16* p) {
  int pair;
  std::memcpy(&pair, p, 4);
  return pair;
}

// Scores of G queries with `length` keys (a multiple of 16 is computed).
template <int G>
inline void score(bf16* const* pages, int64_t offset, int dim, const bf16* q, int length, float* s, int width) {
  for (int start = 0; start < length; start += 16) {
    const bf16* keys = pages[start / PAGE] + offset + (start % PAGE) * dim;
    __m512 even[G], odd[G];
    for (int g = 0; g < G; g++) even[g] = odd[g] = _mm512_setzero_ps();
    for (int p = 0; p < dim / 2; p += 2) {
      const __m512bh a = reinterpret_cast<__m512bh>(_mm512_load_si512(keys + 32 * p));
      const __m512bh b = reinterpret_cast<__m512bh>(_mm512_load_si512(keys + 32 * p + 32));
      for (int g = 0; g < G; g++) {
        const bf16* x = q + g * dim + 2 * p;
        even[g] = _mm512_dpbf16_ps(even[g], reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair_at(x))), a);
        odd[g] = _mm512_dpbf16_ps(odd[g], reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair_at(x + 2))), b);
      }
    }
    for (int g = 0; g < G; g++) _mm512_store_ps(s + g * width + start, _mm512_add_ps(even[g], odd[g]));
  }
}

// Softmax of `length` scores, not normalised, rounded; zeros up to a multiple of 32. Returns the sum.
inline float soften(float* s, int length, bf16* p) {
  const __m512 lowest = _mm512_set1_ps(-FLT_MAX);
  __m512 most = lowest;
  for (int i = 0; i < length; i += 16)
    most = _mm512_max_ps(most, _mm512_mask_loadu_ps(lowest, first(length - i), s + i));
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < padded(length); i += 16) {
    const __mmask16 known = length > i ? first(length - i) : 0;
    const __m512 e = _mm512_maskz_mov_ps(known, exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(known, s + i), top)));
    sum = _mm512_add_ps(sum, e);
    store_bf16(p + i, e);
  }
  return _mm512_reduce_add_ps(sum);
}

template <int G>
inline void mix(bf16* const* pages, int64_t offset, int dim, const bf16* p, int width, int length, const float* sums,
                bf16* out) {
  for (int d = 0; d < dim; d += 32) {
    __m512 left[G], right[G];
    for (int g = 0; g < G; g++) left[g] = right[g] = _mm512_setzero_ps();
    for (int start = 0; start < length; start += PAGE) {
      const bf16* values = pages[start / PAGE] + offset + static_cast<int64_t>(PAGE) * dim + 2 * d;
      const int pairs = (std::min(PAGE, length - start) + 1) / 2;
      for (int i = 0; i < pairs; i++) {
        const __m512bh a = reinterpret_cast<__m512bh>(_mm512_load_si512(values + 2 * i * dim));
        const __m512bh b = reinterpret_cast<__m512bh>(_mm512_load_si512(values + 2 * i * dim + 32));
        for (int g = 0; g < G; g++) {
          const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair_at(p + g * width + start + 2 * i)));
          left[g] = _mm512_dpbf16_ps(left[g], x, a);
          right[g] = _mm512_dpbf16_ps(right[g], x, b);
        }
      }
    }
    for (int g = 0; g < G; g++) {
      const __m512 scale = _mm512_set1_ps(1.0f / sums[g]);
      store_bf16(out + g * dim + d, _mm512_mul_ps(left[g], scale));
      store_bf16(out + g * dim + d + 16, _mm512_mul_ps(right[g], scale));
    }
  }
}

template <int G>
inline void attend(bf16* const* pages, int64_t offset, int dim, const bf16* q, int length, float* s, bf16* p, bf16* out) {
  const int width = padded(length);
  float sums[G];
  score<G>(pages, offset, dim, q, length, s, width);
  for (int g = 0; g < G; g++) sums[g] = soften(s + g * width, length, p + g * width);
  mix<G>(pages, offset, dim, p, width, length, sums, out);
}

struct DrawScratch {
  Buffer<float> probs, kept;
  std::vector<int> order;
};

// One thread's memory.
struct SamplerScratch {
  Buffer<float> x, wide, scores, logits;
  Buffer<bf16> normed, low, qkv, mixed, acts, probs;
  DrawScratch draw;
};

// Tokens to be fed: their ids, their positions and the cache rows they belong to (whose earlier tokens are in the cache or
// among them); the logits wanted: entries `asked`, ascending.
struct Feed {
  const int32_t *tokens, *positions, *rows, *asked;
  const float *cos, *sin;  // [T, D / 2]
  float* logits;           // [asked, vocab]
};

// Entries [start, start + n) of a feed on one thread.
struct Pass {
  const Model& m;
  const Cache& cache;
  const Feed& feed;
  const int start, n;
  SamplerScratch& w;
  const int hidden = m.shape.hidden, dim = m.shape.head_dim, rows = padded(n);
  float* x = w.x.reserve(static_cast<size_t>(rows) * hidden);  // the residual stream
  float* wide = w.wide.reserve(static_cast<size_t>(rows) * m.width);
  bf16* normed = w.normed.reserve(static_cast<size_t>(rows) * hidden);
  bf16* qkv = w.qkv.reserve(static_cast<size_t>(rows) * m.width);
  bf16* mixed = w.mixed.reserve(static_cast<size_t>(rows) * m.queries);
  bf16* acts = w.acts.reserve(static_cast<size_t>(rows) * m.shape.inner);

  template <class T>
  T* row(T* first, int i, int width) const {
    return first + static_cast<int64_t>(i) * width;
  }

  void embed() {
    for (int i = 0; i < n; i++)
      std::memcpy(row(x, i, hidden), row(m.embedding, feed.tokens[start + i], hidden), 4 * static_cast<size_t>(hidden));
  }

  void norm(const float* weight) {
    for (int i = 0; i < n; i++) rms_norm(row(x, i, hidden), weight, hidden, m.shape.eps, row(normed, i, hidden));
  }

  // x += a W^T
  void add_product(const bf16* a, int width, const bf16* weight) {
    multiply(a, width, n, weight, hidden, width, [&](int r, int c, const float* out) {
      for (int i = 0; i < SIDE && r + i < n; i++)
        for (int j = 0; j < SIDE; j += 16) {
          float* to = row(x, r + i, hidden) + c + j;
          _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_load_ps(out + i * SIDE + j)));
        }
    });
  }

  // Queries, and keys and values into the cache.
  void project(const Layer& l, int at) {
    multiply(normed, hidden, n, l.qkv, padded(m.width), hidden, [&](int r, int c, const float* out) {
      for (int i = 0; i < SIDE && r + i < n; i++)
        for (int j = 0; j < SIDE; j += 16)
          _mm512_storeu_ps(row(wide, r + i, m.width) + c + j, _mm512_load_ps(out + i * SIDE + j));
    });
    for (int i = 0; i < n; i++) {
      const int place = feed.positions[start + i];
      const int64_t turn = static_cast<int64_t>(place) * (dim / 2);
      finish_qkv(m, l, row(wide, i, m.width), feed.cos + turn, feed.sin + turn, row(qkv, i, m.width));
      bf16* page = cache.pages(feed.rows[start + i])[place / PAGE];
      for (int h = 0; h < m.shape.kv_heads; h++) {
        bf16* keys = page + cache.offset(at, h);
        const bf16* k = row(qkv, i, m.width) + m.queries + h * dim;
        remember(keys, keys + static_cast<int64_t>(PAGE) * dim, place % PAGE, dim, k, k + m.shape.kv_heads * dim);
      }
    }
  }

  void attend_all(int at) {
    int longest = 0;
    for (int i = 0; i < n; i++) longest = std::max(longest, feed.positions[start + i] + 1);
    float* scores = w.scores.reserve(static_cast<size_t>(4) * padded(longest));
    bf16* probs = w.probs.reserve(static_cast<size_t>(4) * padded(longest));
    const int group = m.shape.heads / m.shape.kv_heads;
    for (int i = 0; i < n; i++) {
      bf16* const* pages = cache.pages(feed.rows[start + i]);
      const int length = feed.positions[start + i] + 1;
      for (int h = 0; h < m.shape.kv_heads; h++)
        for (int g = 0; g < group; g += 4) {
          const int head = (h * group + g) * dim;
          const bf16* q = row(qkv, i, m.width) + head;
          bf16* out = row(mixed, i, m.queries) + head;
          const int64_t offset = cache.offset(at, h);
          switch (std::min(4, group - g)) {
            case 1: attend<1>(pages, offset, dim, q, length, scores, probs, out); break;
            case 2: attend<2>(pages, offset, dim, q, length, scores, probs, out); break;
            case 3: attend<3>(pages, offset, dim, q, length, scores, probs, out); break;
            default: attend<4>(pages, offset, dim, q, length, scores, probs, out);
          }
        }
    }
  }

  void activate(const Layer& l) {
    multiply(normed, hidden, n, l.gate_up, 2 * m.shape.inner, hidden, [&](int r, int c, const float* out) {
      for (int i = 0; i < SIDE && r + i < n; i++)
        store_bf16(row(acts, r + i, m.shape.inner) + c / 2,
                   silu_times(_mm512_load_ps(out + i * SIDE), _mm512_load_ps(out + i * SIDE + 16)));
    });
  }

  // The logits of the entries feed.asked[from, to).
  void answer(int from, int to) {
    bf16* low = m.head_low ? w.low.reserve(static_cast<size_t>(ROWS_TOGETHER) * hidden) : nullptr;
    float* logits = w.wide.reserve(static_cast<size_t>(ROWS_TOGETHER) * std::max(m.vocab, m.width));
    float* state = w.scores.reserve(hidden);
    for (; from < to; from += ROWS_TOGETHER) {
      const int count = std::min(ROWS_TOGETHER, to - from);
      for (int i = 0; i < count; i++) {
        rms_norm_wide(row(x, feed.asked[from + i] - start, hidden), m.final_norm, hidden, m.shape.eps, state);
        split(state, hidden, row(normed, i, hidden), low ? row(low, i, hidden) : nullptr);
      }
      logits_of(m, normed, low, count, logits);
      for (int i = 0; i < count; i++)
        std::memcpy(row(feed.logits, from + i, m.shape.vocab), row(logits, i, m.vocab),
                    4 * static_cast<size_t>(m.shape.vocab));
    }
  }
};

inline void forward_part(const Model& m, const Cache& cache, const Feed& feed, int start, int stop, int first_asked,
                         int last_asked, SamplerScratch& w) {
  Pass pass{m, cache, feed, start, stop - start, w};
  pass.embed();
  for (int at = 0; at < m.shape.layers; at++) {
    const Layer& l = m.layers[at];
    pass.norm(l.input_norm);
    pass.project(l, at);
    pass.attend_all(at);
    pass.add_product(pass.mixed, m.queries, l.out);
    pass.norm(l.post_norm);
    pass.activate(l);
    pass.add_product(pass.acts, m.shape.inner, l.down);
  }
  pass.answer(first_asked, last_asked);
}

// ---- drawing

// The finaliser of SplitMix64, and the uniform draw in [0, 1) of a completion's word and the index of a token.
inline uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline double uniform(uint64_t word, uint64_t index) {
  constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15u;
  return static_cast<double>(scramble(scramble(word + GOLDEN) + (index + 1) * GOLDEN) >> 12) * 0x1p-52;
}

// The fewest most probable tokens whose mass reaches top_p (arXiv 1904.09751v2 eq. 2), ties by id; others become 0.
inline void keep_nucleus(float* p, int n, double top_p, float* kept, std::vector<int>& order) {
  std::fill(kept, kept + n, 0.0f);
  double before = 0;
  for (int taken = 0; taken < 32 && taken < n; taken++) {  // nearly always a few tokens hold it
    __m512 most = _mm512_set1_ps(-1.0f);
    for (int i = 0; i < n; i += 16)
      most = _mm512_max_ps(most, _mm512_mask_loadu_ps(most, first(n - i), p + i));
    const float top = _mm512_reduce_max_ps(most);
    if (before >= top_p) return;
    for (int i = 0; i < n; i += 16) {
      const __mmask16 same = _mm512_mask_cmpeq_ps_mask(first(n - i), _mm512_maskz_loadu_ps(first(n - i), p + i),
                                                      _mm512_set1_ps(top));
      if (!same) continue;
      const int at = i + __builtin_ctz(same);
      kept[at] = p[at];
      before += p[at];
      p[at] = -1.0f;
      break;
    }
  }
  order.clear();
  for (int i = 0; i < n; i++)
    if (p[i] >= 0) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
  for (int i : order) {
    if (before >= top_p) return;
    kept[i] = p[i];
    before += p[i];
  }
}

// A token of softmax(logits / temperature) cut to its nucleus, at the draw's place in the cumulative distribution, and its
// log-probability there. Temperature 0: the most probable token, and its log-probability at temperature 1. A row whose
// logits are not all finite gives a log-probability of NaN.
inline void draw_row(const float* logits, int n, float temperature, double top_p, double draw, DrawScratch& w,
                     int64_t* token, float* logprob) {
  const bool greedy = temperature == 0;
  const __m512 scale = _mm512_set1_ps(greedy ? 1.0f : temperature), low = _mm512_set1_ps(-INFINITY);
  float* p = w.probs.reserve(padded(n));
  __m512 most = low;
  for (int i = 0; i < n; i += 16) {
    const __m512 z = _mm512_div_ps(_mm512_mask_loadu_ps(low, first(n - i), logits + i), scale);
    _mm512_store_ps(p + i, z);
    most = _mm512_max_ps(most, z);
  }
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < n; i += 16) {
    const __m512 e = _mm512_maskz_mov_ps(first(n - i), exponential(_mm512_sub_ps(_mm512_load_ps(p + i), top)));
    _mm512_store_ps(p + i, e);
    sum = _mm512_add_ps(sum, e);
  }
  const float mass = _mm512_reduce_add_ps(sum), inverse = 1.0f / mass;
  __m512 check = _mm512_setzero_ps();  // infinite and undefined logits leave their mark here, a maximum may hide them
  for (int i = 0; i < n; i += 16) check = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(first(n - i), logits + i), _mm512_setzero_ps(), check);
  if (!std::isfinite(mass) || _mm512_reduce_add_ps(check) != 0.0f) {
    *token = 0;
    *logprob = NAN;
    return;
  }
  for (int i = 0; i < n; i += 16) _mm512_store_ps(p + i, _mm512_mul_ps(_mm512_load_ps(p + i), _mm512_set1_ps(inverse)));
  if (greedy) {
    *token = std::max_element(logits, logits + n) - logits;
    *logprob = std::log(p[*token]);
    return;
  }
  if (top_p < 1) {
    float* kept = w.kept.reserve(padded(n));
    keep_nucleus(p, n, top_p, kept, w.order);
    p = kept;
  }
  double total = 0, reached = 0;
  for (int i = 0; i < n; i += 16) total += _mm512_reduce_add_ps(_mm512_maskz_loadu_ps(first(n - i), p + i));
  const double wanted = draw * total;
  int chosen = 0;
  for (int i = 0; i < n; i += 16) {  // the register in which the sum passes the draw, then the token within it
    const float here = _mm512_reduce_add_ps(_mm512_maskz_loadu_ps(first(n - i), p + i));
    if (here <= 0) continue;
    double sum = reached;
    for (int j = i; j < i + 16 && j < n && sum <= wanted; j++) {
      sum += p[j];
      if (p[j] > 0) chosen = j;
    }
    reached += here;
    if (reached > wanted) break;
  }
  *token = chosen;
  *logprob = static_cast<float>(std::log(p[chosen] / total));
}

// ---- whole answers

// The rows of a batch, an entry a row in each array, and where their answers go.
struct R1Batch {
  const int32_t* cache;        // the row's place in the cache
  int32_t* lengths;            // tokens that it has there
  int64_t *last, *counts;      // its last token, and the tokens of its answer so far
  const int64_t *slots, *limits;  // its line of the answers, and how many tokens it may have
  const double *temperature, *top_p;
  const uint64_t* words;
  int32_t* ended;              // out: the step of this call, from 1, at which it ended; -1: its logits are not finite
  int32_t* tokens;             // [slots, width]
  float* logprobs;
  int64_t width;
  const uint8_t* ends;         // [V]: tokens that end an answer
};

// Feeds rows `at` of a batch their last tokens and draws the next ones, each until it ends or `steps` are done.
inline void sample_part(const Model& m, const Cache& cache, const R1Batch& b, std::vector<int32_t> at, int steps,
                        const float* cos, const float* sin, SamplerScratch& w) {
  const int V = m.shape.vocab;
  std::vector<int32_t> tokens(at.size()), positions(at.size()), rows(at.size()), asked(at.size());
  std::iota(asked.begin(), asked.end(), 0);
  float* logits = w.logits.reserve(at.size() * static_cast<size_t>(V));
  const Feed feed{tokens.data(), positions.data(), rows.data(), asked.data(), cos, sin, logits};
  for (int step = 1; step <= steps && !at.empty(); step++) {
    const int n = static_cast<int>(at.size());
    for (int i = 0; i < n; i++) {
      tokens[i] = static_cast<int32_t>(b.last[at[i]]);
      positions[i] = b.lengths[at[i]];
      rows[i] = b.cache[at[i]];
    }
    forward_part(m, cache, feed, 0, n, 0, n, w);
    int going = 0;
    for (int i = 0; i < n; i++) {
      const int32_t row = at[i];
      const int64_t place = b.slots[row] * b.width + b.counts[row];
      draw_row(logits + static_cast<int64_t>(i) * V, V, static_cast<float>(b.temperature[row]), b.top_p[row],
               uniform(b.words[row], b.counts[row]), w.draw, b.last + row, b.logprobs + place);
      b.tokens[place] = static_cast<int32_t>(b.last[row]);
      b.lengths[row]++;
      b.counts[row]++;
      if (!std::isfinite(b.logprobs[place]))
        b.ended[row] = -1;
      else if (b.ends[b.last[row]] || b.counts[row] >= b.limits[row])
        b.ended[row] = step;
      else
        at[going++] = row;
    }
    at.resize(going);
  }
}

}  // namespace r1
