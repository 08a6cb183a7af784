// Products of bfloat16 matrices, 32 x 32 results at a time, on AMX tiles or AVX-512 BF16 dot products.
//
// The right operand B [K, N] is packed: tiles of 32 (K) x 16 (N), tile (n, k) at (n * K/32 + k) * 512 values; within a
// tile, row p holds the pair (k = 2p, 2p + 1) of each of the 16 columns. The left operand is row-major, or packed in
// tiles of 16 rows x 32 (K). Both instruction sets read the same layout and add up K in the same order, so a row's result
// depends on nothing but the row.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || !defined(__AVX512BF16__)
#error "needs AVX-512 with BF16"
#endif

namespace r1 {

using bf16 = uint16_t;
constexpr int SIDE = 32;        // rows and columns of a result block
constexpr int TILE = 512;       // values of a packed tile
constexpr int ROWS_TOGETHER = 64;  // rows whose left operand stays in the first-level cache

inline int padded(int n, int to = SIDE) { return (n + to - 1) / to * to; }

inline bf16 to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<bf16>((bits >> 16) | 0x40);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float to_float(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline __m512 load_bf16(const bf16* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}

inline void store_bf16(bf16* p, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}

inline __mmask16 first(int n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1); }

// The left operand of 32 rows: two groups of 16, `stride` bytes from row to row and `step` bytes for 32 further values.
struct Left {
  const bf16 *upper, *lower;
  int64_t stride, step;
};

inline Left rows_of(const bf16* a, int64_t width) { return {a, a + 16 * width, 2 * width, 64}; }

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && !defined(R1_NO_AMX)
#define R1_AMX 1

// GCC's tile loads do not say what memory they read: all that was written must be there before them.
inline void written() { asm volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles are a state of the thread: every entry point of the library holds one of these.
struct TileScope {
  TileScope() {
    TileConfig config{};
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
    written();
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
};

// C [32, 32] = (or, where `add`, +=) A [32, 32 * steps] B, B's tiles of the two groups of 16 columns at b0 and b1. C's
// rows have `width` floats; its first 16 are at c, the others at d.
inline void block(const Left& a, const bf16* b0, const bf16* b1, int steps, float* c, float* d, int64_t width, bool add) {
  written();
  if (add) {
    _tile_loadd(0, c, 4 * width);
    _tile_loadd(1, c + 16, 4 * width);
    _tile_loadd(2, d, 4 * width);
    _tile_loadd(3, d + 16, 4 * width);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const char *upper = reinterpret_cast<const char*>(a.upper), *lower = reinterpret_cast<const char*>(a.lower);
  for (int k = 0; k < steps; k++) {
    _tile_loadd(4, upper + k * a.step, a.stride);
    _tile_loadd(6, b0 + k * TILE, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b1 + k * TILE, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, lower + k * a.step, a.stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, 4 * width);
  _tile_stored(1, c + 16, 4 * width);
  _tile_stored(2, d, 4 * width);
  _tile_stored(3, d + 16, 4 * width);
}

// The first 16 rows of a block alone.
inline void half_block(const Left& a, const bf16* b0, const bf16* b1, int steps, float* c, int64_t width) {
  written();
  _tile_zero(0);
  _tile_zero(1);
  const char* upper = reinterpret_cast<const char*>(a.upper);
  for (int k = 0; k < steps; k++) {
    _tile_loadd(4, upper + k * a.step, a.stride);
    _tile_loadd(6, b0 + k * TILE, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b1 + k * TILE, 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_stored(0, c, 4 * width);
  _tile_stored(1, c + 16, 4 * width);
}

#else
#define R1_AMX 0

struct TileScope {
  TileScope() {}
  ~TileScope() {}
};

// Eights of a block's rows, from `half` 0 to `halves`.
inline void eights(const Left& a, const bf16* b0, const bf16* b1, int steps, float* c, float* d, int64_t width, bool add,
                   int halves) {
  for (int half = 0; half < halves; half++) {
    const char* rows = reinterpret_cast<const char*>(half < 2 ? a.upper : a.lower) + (half & 1) * 8 * a.stride;
    float* out = (half < 2 ? c : d) + (half & 1) * 8 * width;
    __m512 sums[8][2];
    for (int r = 0; r < 8; r++)
      for (int s = 0; s < 2; s++) sums[r][s] = add ? _mm512_loadu_ps(out + r * width + 16 * s) : _mm512_setzero_ps();
    for (int k = 0; k < steps; k++) {
      for (int p = 0; p < 16; p++) {
        const __m512bh left = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b0 + k * TILE + 32 * p));
        const __m512bh right = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b1 + k * TILE + 32 * p));
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++) {
          int pair;
          std::memcpy(&pair, rows + r * a.stride + k * a.step + 4 * p, 4);
          const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
          sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, left);
          sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, right);
        }
      }
    }
    for (int r = 0; r < 8; r++)
      for (int s = 0; s < 2; s++) _mm512_storeu_ps(out + r * width + 16 * s, sums[r][s]);
  }
}

inline void block(const Left& a, const bf16* b0, const bf16* b1, int steps, float* c, float* d, int64_t width, bool add) {
  eights(a, b0, b1, steps, c, d, width, add, 4);
}

inline void half_block(const Left& a, const bf16* b0, const bf16* b1, int steps, float* c, int64_t width) {
  eights(a, b0, b1, steps, c, c, width, false, 2);
}
#endif

// For every 32 x 32 block of A [M, K] B [K, N]: then(row, column, C [32, 32]). A has room for padded(M) rows of `width`
// values; N is a multiple of 32.
template <class Then>
inline void multiply(const bf16* a, int64_t width, int M, const bf16* b, int N, int K, Then then) {
  alignas(64) float c[SIDE * SIDE];
  const int steps = K / 32;
  for (int start = 0; start < M; start += ROWS_TOGETHER)
    for (int n = 0; n < N; n += SIDE) {
      const bf16* b0 = b + static_cast<int64_t>(n / 16) * steps * TILE;
      for (int m = start; m < M && m < start + ROWS_TOGETHER; m += SIDE) {
        const bf16* b1 = b0 + static_cast<int64_t>(steps) * TILE;
        if (M - m > 16)
          block(rows_of(a + m * width, width), b0, b1, steps, c, c + 16 * SIDE, SIDE, false);
        else
          half_block(rows_of(a + m * width, width), b0, b1, steps, c, SIDE);
        then(m, n, c);
      }
    }
}

// ---- packing

// Pairs of 16 columns of two rows of 16 values each.
inline __m512i interleave(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

inline __m256i load16(const bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// X [K, N] row-major as the right operand whose K are X's rows; rows from `known` on are zeros. N a multiple of 16.
// `steps` is the number of 32-row tiles of the packed operand.
inline void pack_rows(const bf16* x, int64_t width, int known, int N, int steps, bf16* out) {
  for (int k = 0; k < steps; k++)
    for (int p = 0; p < 16; p++) {
      const int row = 32 * k + 2 * p;
      const bf16* even = x + row * width;
      for (int n = 0; n < N / 16; n++) {
        bf16* to = out + (static_cast<int64_t>(n) * steps + k) * TILE + 32 * p;
        const __m256i none = _mm256_setzero_si256();
        const __m256i a = row < known ? load16(even + 16 * n) : none;
        const __m256i b = row + 1 < known ? load16(even + width + 16 * n) : none;
        _mm512_storeu_si512(to, interleave(a, b));
      }
    }
}

inline void transpose16(const __m512i in[16], __m512i out[16]) {
  __m512i a[16], b[16];
  for (int i = 0; i < 8; i++) {
    a[2 * i] = _mm512_unpacklo_epi32(in[2 * i], in[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(in[2 * i], in[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    a[i] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    out[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
    out[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
  }
}

// X [K, N] row-major as the left operand X^T [N, K], in tiles of 16 (N) x 32 (K): tile (n, k) at (n * steps + k) * 512.
inline void pack_transposed(const bf16* x, int64_t width, int known, int N, int steps, bf16* out) {
  __m512i in[16], turned[16];
  const __m256i none = _mm256_setzero_si256();
  for (int k = 0; k < steps; k++)
    for (int n = 0; n < N / 16; n++) {
      for (int p = 0; p < 16; p++) {
        const int row = 32 * k + 2 * p;
        const bf16* even = x + row * width + 16 * n;
        in[p] = interleave(row < known ? load16(even) : none, row + 1 < known ? load16(even + width) : none);
      }
      transpose16(in, turned);
      bf16* to = out + (static_cast<int64_t>(n) * steps + k) * TILE;
      for (int r = 0; r < 16; r++) _mm512_storeu_si512(to + 32 * r, turned[r]);
    }
}

// X [N, K] row-major as the right operand X^T [K, N]: the packed form of a linear layer's weight. N and K are padded with
// zeros to whole tiles of 16 and 32; `known` rows exist.
inline void pack_columns(const bf16* x, int64_t width, int known, int N, int K, bf16* out) {
  __m512i in[16], turned[16];
  for (int n = 0; n < N / 16; n++)
    for (int k = 0; k < K / 32; k++) {
      for (int r = 0; r < 16; r++)
        in[r] = 16 * n + r < known ? _mm512_loadu_si512(x + (16 * n + r) * width + 32 * k) : _mm512_setzero_si512();
      transpose16(in, turned);
      bf16* to = out + (static_cast<int64_t>(n) * (K / 32) + k) * TILE;
      for (int p = 0; p < 16; p++) _mm512_storeu_si512(to + 32 * p, turned[p]);
    }
}

// ---- elementary functions

// e^x for x <= 88 or so; 0 below -87.3. Relative error below 2e-7 (degree-6 Taylor of the remainder).
inline __m512 exponential(__m512 x) {
  const __m512 log2e = _mm512_set1_ps(1.44269504088896341f);
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.33f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 y = _mm512_set1_ps(1.0f / 720);
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 120));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 24));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 6));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.5f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(y, n);
}

inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 e = exponential(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), _mm512_set1_ps(87.0f)));
  return _mm512_div_ps(one, _mm512_add_ps(one, e));
}

}  // namespace r1
