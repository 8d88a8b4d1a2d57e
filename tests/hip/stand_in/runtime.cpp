// A HIP runtime that does nothing, built as two versions: which of them is taken when both are at hand.
extern "C" {

int hipRuntimeGetVersion(int* version) {
  *version = SEXTANT_STAND_IN_VERSION;
  return 0;
}
int hipGetDeviceCount(int* count) {
  *count = 0;
  return 100;
}
const char* hipGetErrorString(int) { return "an error of the stand-in"; }
int hipSetDevice() { return 0; }
int hipGetDevice() { return 0; }
int hipDeviceGetAttribute() { return 0; }
int hipDeviceGetName() { return 0; }
int hipDeviceTotalMem() { return 0; }
int hipGetDevicePropertiesR0600() { return 0; }
int hipMalloc() { return 0; }
int hipFree() { return 0; }
int hipMemcpyAsync() { return 0; }
int hipMemsetAsync() { return 0; }
int hipStreamSynchronize() { return 0; }
int hipModuleLoadData() { return 0; }
int hipModuleUnload() { return 0; }
int hipModuleGetFunction() { return 0; }
int hipModuleLaunchKernel() { return 0; }
int hipGetLastError() { return 0; }

}  // extern "C"
