// CUDA graphs; other devices have none.
#include "verify/random/graph.h"

#if defined(SEXTANT_HAS_CUDA)
#include "devices/cuda/cuda_status.h"
#endif

namespace sextant::verify {

#if defined(SEXTANT_HAS_CUDA)
namespace {

class CudaCapturedRun final : public CapturedRun {
 public:
  ~CudaCapturedRun() override {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  Status capture(const std::function<Status(Stream)>& run) {
    SEXTANT_RETURN_IF_ERROR(cuda::to_status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"));
    SEXTANT_RETURN_IF_ERROR(
        cuda::to_status(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin of a capture"));
    const Status ran = run(Stream{stream_});
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
    if (!ran.is_ok()) return ran;
    SEXTANT_RETURN_IF_ERROR(cuda::to_status(ended, "end of a capture"));
    const cudaError_t made = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    return cuda::to_status(made, "graph");
  }
  Status launch() override {
    SEXTANT_RETURN_IF_ERROR(cuda::to_status(cudaGraphLaunch(executable_, stream_), "launch of a graph"));
    return cuda::to_status(cudaStreamSynchronize(stream_), "graph");
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace
#endif

Result<std::unique_ptr<CapturedRun>> CapturedRun::capture(const Device& device,
                                                          const std::function<Status(Stream)>& run) {
#if defined(SEXTANT_HAS_CUDA)
  if (device.info().kind == DeviceKind::kCuda) {
    auto captured = std::make_unique<CudaCapturedRun>();
    SEXTANT_RETURN_IF_ERROR(captured->capture(run));
    return std::unique_ptr<CapturedRun>(std::move(captured));
  }
#endif
  return unsupported(std::string("graph is true; ") + to_string(device.info().kind) + " has no graphs");
}

}  // namespace sextant::verify
