// The automatic order and the measurements that it cites.
#include "select/preference.h"

#include <gtest/gtest.h>

#include "select/extend_profile.h"

namespace sextant {
namespace {

DeviceInfo hopper() {
  DeviceInfo info;
  info.kind = DeviceKind::kCuda;
  info.has_tuned_kernels = true;
  return info;
}

SelectRequest traffic(int64_t query_len, int64_t context_len) {
  SelectRequest request;
  request.typical_query_len = query_len;
  request.typical_context_len = context_len;
  return request;
}

TEST(ExtendProfile, TakesTheNearestMeasuredLengths) {
  EXPECT_EQ(three_paths_over_unified(hopper(), 128, 131072), 2.50);
  EXPECT_EQ(three_paths_over_unified(hopper(), 700, 15000), 1.35);  // 512 over 16384
  EXPECT_EQ(three_paths_over_unified(hopper(), 1000000, 1), 1.17);  // 8192 over 4096
}

TEST(ExtendProfile, HasNothingToSayElsewhere) {
  EXPECT_FALSE(three_paths_over_unified(hopper(), 512, 0));
  EXPECT_FALSE(three_paths_over_unified(hopper(), 0, 4096));
  DeviceInfo older = hopper();
  older.has_tuned_kernels = false;
  EXPECT_FALSE(three_paths_over_unified(older, 512, 4096));
  EXPECT_FALSE(three_paths_over_unified(DeviceInfo{}, 512, 4096));
}

TEST(Preference, KnownTrafficIsDecidedByMeasurement) {
  const auto order = preference_order(hopper(), traffic(512, 16384));
  ASSERT_EQ(order.size(), 4U);
  EXPECT_EQ(order[0].name, "ROCM_AITER_UNIFIED_ATTN");
  EXPECT_EQ(order[1].name, "ROCM_AITER_FA");
  EXPECT_NE(order[0].why.find("1.35 times"), std::string::npos) << order[0].why;
}

TEST(Preference, AGeneralMixCitesNoSingleFigure) {
  const auto order = preference_order(hopper(), traffic(0, 0));
  EXPECT_EQ(order[0].name, "ROCM_AITER_UNIFIED_ATTN");
  EXPECT_EQ(order[0].why.find("times as long"), std::string::npos) << order[0].why;
}

}  // namespace
}  // namespace sextant
