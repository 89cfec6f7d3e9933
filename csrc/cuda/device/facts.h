// What there is to know of a device before it is used; without a header of CUDA.
#pragma once

#include <cstdint>
#include <string>

namespace llada::cuda {

struct DeviceFacts {
  std::string name;
  int index = 0;
  int capability = 0;  // 90 for sm_90
  int num_processors = 0;
  std::int64_t memory_bytes = 0;
  std::int64_t shared_bytes = 0;  // that a block may ask for
  std::int64_t l2_bytes = 0;
  int driver = 0;   // 13000 for 13.0
  int runtime = 0;  // that this was built with
};

// Number of usable devices; if there are none, `why` says so in words for a person.
int num_devices(std::string& why);
// Throws DeviceError: no such device, older than the build, a driver that is too old.
DeviceFacts device_facts(int index);

}  // namespace llada::cuda
