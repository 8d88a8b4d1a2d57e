#include <gtest/gtest.h>

#include "sextant/types.h"
#include "support/matchers.h"

namespace sextant {
namespace {

TEST(DType, NamesRoundTrip) {
  for (DType d : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2,
                  DType::kI32, DType::kI64}) {
    auto parsed = parse_dtype(to_string(d));
    ASSERT_OK(parsed);
    EXPECT_EQ(*parsed, d);
  }
}

TEST(DType, KnowsTorchNames) {
  EXPECT_EQ(parse_dtype("bfloat16").value(), DType::kBF16);
  EXPECT_EQ(parse_dtype("float8_e4m3fnuz").value(), DType::kF8E4M3FNUZ);
}

TEST(DType, UnknownNameListsWhatIsAllowed) {
  EXPECT_ERROR(parse_dtype("bf17"), StatusCode::kInvalidArgument, "dtype is \"bf17\"; allowed: fp32");
}

TEST(TensorView, DenseViewIsContiguousAndSlicesAreNot) {
  TensorView view = make_view(nullptr, DType::kF32, {4, 3, 8});
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_EQ(view.num_elements(), 96);
  EXPECT_EQ(view.stride[0], 24);
  view.stride[0] = 48;
  EXPECT_FALSE(view.is_contiguous());
}

}  // namespace
}  // namespace sextant
