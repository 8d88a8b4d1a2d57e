// Memory on the device, and the times of captured graphs.
#include "cuda_bench_device.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace sextant::cuda_bench {

[[noreturn]] void fail(const std::string& message) {
  std::printf("cuda_bench: %s\n", message.c_str());
  std::exit(1);
}
void check(const Status& status, const char* what) {
  if (!status.is_ok()) fail(std::string(what) + ": " + status.message());
}
void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail(std::string(what) + ": " + cudaGetErrorString(error));
}

void Pattern::fill(void* device, int64_t elements) const {
  const auto element = static_cast<int64_t>(size_of(dtype));
  auto* to = static_cast<char*>(device);
  const int64_t first = std::min(size, elements);
  check(cudaMemcpy(to, bytes.data(), static_cast<size_t>(first * element), cudaMemcpyHostToDevice), "fill");
  for (int64_t done = first; done < elements;) {  // doubling, always at a multiple of the pattern's size
    const int64_t count = std::min(done / size * size, elements - done);
    check(cudaMemcpy(to + done * element, to, static_cast<size_t>(count * element), cudaMemcpyDeviceToDevice), "fill");
    done += count;
  }
}

Pattern make_pattern(DType dtype, uint64_t seed, double magnitude) {
  Pattern p;
  p.dtype = dtype;
  p.size = 262139;  // prime: no period that a head or a block could share
  p.bytes.resize(static_cast<size_t>(p.size) * size_of(dtype));
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0, magnitude);
  for (int64_t i = 0; i < p.size; ++i) reference::store(dtype, p.bytes.data(), i, normal(random));
  return p;
}

double time_once(cudaStream_t stream, const std::function<void()>& launch) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  cudaEventRecord(begin, stream);
  launch();
  cudaEventRecord(end, stream);
  check(cudaEventSynchronize(end), "run");
  float ms = 0;
  cudaEventElapsedTime(&ms, begin, end);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return 1000.0 * ms;
}

double time_graph(const std::function<void(int, cudaStream_t)>& launch, int launches, int replays) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  launch(0, stream);
  check(cudaStreamSynchronize(stream), "first run");
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < launches; ++i) launch(i, stream);
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  std::vector<double> times;
  for (int i = 0; i < replays + 1; ++i) {
    const double us = time_once(stream, [&] { check(cudaGraphLaunch(executable, stream), "replay"); });
    if (i > 0) times.push_back(us);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] / launches;
}

}  // namespace sextant::cuda_bench
