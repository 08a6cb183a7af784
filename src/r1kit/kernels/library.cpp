// The library's entry points: plain C, called through ctypes. They return 0, or -1 where memory ran out.
#include <sys/syscall.h>
#include <unistd.h>

#include "sampler.h"
#include "trainer.h"

using namespace r1;

namespace {

constexpr int64_t LEAST_ROWS = 8;  // fewer to a thread are not worth waking it for

template <class Work>
int guarded(Work work) {
  try {
    work();
    return 0;
  } catch (const std::exception&) {
    return -1;
  }
}

struct Sampler {
  const Model* model;
  Cache cache;
  std::vector<SamplerScratch> scratch;
};

}  // namespace

extern "C" {

// 1 with AMX tiles, 0 with AVX-512 alone, -1 where the system does not let this process use the tiles.
int r1_tiles() {
#if R1_AMX
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // of arch_prctl
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) ? -1 : 1;
#else
  return 0;
#endif
}

// ---- weights

Model* r1_model_new(const R1Shape* shape) {
  try {
    return new Model(*shape);
  } catch (const std::exception&) {
    return nullptr;
  }
}

void r1_model_free(Model* model) { delete model; }

int r1_model_load(Model* model, const float* const* weights) {
  return guarded([&] { model->load(weights); });
}

// ---- sampling

Sampler* r1_sampler_new(const Model* model) { return new Sampler{model, Cache(model->shape), {}}; }
void r1_sampler_free(Sampler* sampler) { delete sampler; }
int r1_cache_add(Sampler* sampler) { return sampler->cache.add(); }
void r1_cache_drop(Sampler* sampler, int row) { sampler->cache.drop(row); }
void r1_cache_trim(Sampler* sampler) { sampler->cache.trim(); }

int r1_cache_fork(Sampler* sampler, int row, int length) {
  try {
    return sampler->cache.fork(row, length);
  } catch (const std::exception&) {
    return -1;
  }
}

// Feeds n tokens; those of one row stand together. logits [asked, V].
int r1_forward(Sampler* sampler, int threads, int n, const int32_t* tokens, const int32_t* positions,
               const int32_t* rows, int asked, const int32_t* places, const float* cos, const float* sin,
               float* logits) {
  return guarded([&] {
    for (int i = 0; i < n; i++) sampler->cache.grow(rows[i], positions[i] + 1);
    const int parts = static_cast<int>(std::clamp<int64_t>(n / LEAST_ROWS, 1, threads));
    if (static_cast<int>(sampler->scratch.size()) < parts) sampler->scratch.resize(parts);
    std::vector<int> bounds{0};
    for (int i = 1; i <= parts; i++) {
      // products are made of 16 rows at a time
      const int even = padded(static_cast<int>(static_cast<int64_t>(n) * i / parts), 16);
      int at = i == parts ? n : std::clamp(even, bounds.back(), n);
      while (at > 0 && at < n && rows[at] == rows[at - 1]) at++;
      bounds.push_back(at);
    }
    const Feed feed{tokens, positions, rows, places, cos, sin, logits};
    Pool::get().run(parts, [&](int part) {
      const int start = bounds[part], stop = bounds[part + 1];
      if (start == stop) return;
      TileScope tiles;
      const int from = std::lower_bound(places, places + asked, start) - places;
      const int to = std::lower_bound(places, places + asked, stop) - places;
      forward_part(*sampler->model, sampler->cache, feed, start, stop, from, to, sampler->scratch[part]);
    });
  });
}

// Samples n rows of a batch, those at `places`, on for at most `steps` tokens each. A thread takes its rows through all the
// steps by itself: what a row draws depends on nothing but the row, so nobody has to wait for anybody.
int r1_sample(Sampler* sampler, int threads, int steps, int n, const int32_t* places, const R1Batch* batch,
              const float* cos, const float* sin) {
  return guarded([&] {
    for (int i = 0; i < n; i++) {
      const int row = places[i];
      const int64_t more = std::min<int64_t>(steps, batch->limits[row] - batch->counts[row]);
      sampler->cache.grow(batch->cache[row], batch->lengths[row] + static_cast<int>(more));
    }
    const int parts = static_cast<int>(std::clamp<int64_t>(n / LEAST_ROWS, 1, threads));
    if (static_cast<int>(sampler->scratch.size()) < parts) sampler->scratch.resize(parts);
    std::atomic<bool> failed{false};
    Pool::get().run(parts, [&](int part) {
      TileScope tiles;
      try {
        const std::vector<int32_t> at(places + static_cast<int64_t>(n) * part / parts,
                                      places + static_cast<int64_t>(n) * (part + 1) / parts);
        sample_part(*sampler->model, sampler->cache, *batch, at, steps, cos, sin, sampler->scratch[part]);
      } catch (const std::exception&) {
        failed = true;
      }
    });
    if (failed) throw std::bad_alloc();
  });
}

// A token of each row of logits [rows, V], see draw_row; the row's draw is that of engines/draws.py for its word and count.
int r1_draw(int threads, int rows, int V, const float* logits, const double* temperature, const double* top_p,
            const uint64_t* words, const int64_t* counts, int64_t* tokens, float* logprobs) {
  return guarded([&] {
    const int parts = static_cast<int>(std::clamp<int64_t>(rows / LEAST_ROWS, 1, threads));
    Pool::get().run(parts, [&](int part) {
      thread_local DrawScratch scratch;
      for (int i = rows * part / parts; i < rows * (part + 1) / parts; i++)
        draw_row(logits + static_cast<int64_t>(i) * V, V, static_cast<float>(temperature[i]), top_p[i],
                 uniform(words[i], counts[i]), scratch, tokens + i, logprobs + i);
    });
  });
}

// ---- training

int64_t r1_workspace_bytes(const Model* model, int N) { return static_cast<int64_t>(Workspace::bytes(*model, N)); }
TrainScratch* r1_scratch_new() { return new TrainScratch; }
void r1_scratch_free(TrainScratch* scratch) { delete scratch; }
HeadScratch* r1_head_scratch_new() { return new HeadScratch; }
void r1_head_scratch_free(HeadScratch* scratch) { delete scratch; }

int r1_train_forward(const Model* model, TrainScratch* scratch, char* workspace, int N, const int32_t* ids,
                     const int32_t* positions, int sequences, const int32_t* starts, const float* cos, const float* sin,
                     float* out) {
  return guarded([&] {
    TileScope tiles;
    train_forward(*model, {N, ids, positions, sequences, starts, cos, sin}, Workspace(*model, N, workspace), out, *scratch);
  });
}

// `gradients`: where to add them, in the order of r1_model_load without the head; those of absent weights are null.
int r1_train_backward(const Model* model, TrainScratch* scratch, char* workspace, int N, const int32_t* ids,
                      const int32_t* positions, int sequences, const int32_t* starts, const float* cos, const float* sin,
                      const float* grad, float* const* gradients) {
  return guarded([&] {
    TileScope tiles;
    Gradients into{gradients[0], gradients[1], {}};
    gradients += 2;
    for (int i = 0; i < model->shape.layers; i++, gradients += 12)
      into.layers.push_back({gradients[0], gradients[1], gradients[2], gradients[3], gradients[4], gradients[5],
                             gradients[6], gradients[7], gradients[8], gradients[9], gradients[10], gradients[11]});
    train_backward(*model, {N, ids, positions, sequences, starts, cos, sin}, Workspace(*model, N, workspace), grad, into,
                   *scratch);
  });
}

int r1_head_forward(const Model* model, HeadScratch* scratch, const float* h, int M, const int32_t* targets,
                    float temperature, float* logprob, float* entropy, float* lse) {
  return guarded([&] {
    TileScope tiles;
    head_forward(*model, h, M, targets, temperature, logprob, entropy, lse, *scratch);
  });
}

int r1_head_backward(const Model* model, HeadScratch* scratch, const float* h, int M, const int32_t* targets,
                     float temperature, const float* lse, const float* entropy, const float* by_logprob,
                     const float* by_entropy, float* dh, float* dweight) {
  return guarded([&] {
    TileScope tiles;
    head_backward(*model, h, M, targets, temperature, lse, entropy, by_logprob, by_entropy, dh, dweight, *scratch);
  });
}

}  // extern "C"
