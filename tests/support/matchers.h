// What every test says about a Status or a Result.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "sextant/status.h"

#define ASSERT_OK(expression)                                                  \
  do {                                                                         \
    const auto& ok_value_ = (expression);                                      \
    ASSERT_TRUE(ok_value_.is_ok()) << sextant::testing::message_of(ok_value_); \
  } while (false)
#define EXPECT_OK(expression)                                                  \
  do {                                                                         \
    const auto& ok_value_ = (expression);                                      \
    EXPECT_TRUE(ok_value_.is_ok()) << sextant::testing::message_of(ok_value_); \
  } while (false)

// The call fails with this code, and its message names what the user needs.
#define EXPECT_ERROR(expression, expected_code, fragment)                                   \
  do {                                                                                      \
    const auto& error_value_ = (expression);                                                \
    ASSERT_FALSE(error_value_.is_ok());                                                     \
    EXPECT_EQ(sextant::testing::code_of(error_value_), expected_code);                      \
    EXPECT_NE(sextant::testing::message_of(error_value_).find(fragment), std::string::npos) \
        << sextant::testing::message_of(error_value_);                                      \
  } while (false)

namespace sextant::testing {

inline std::string message_of(const Status& status) { return status.message(); }
inline StatusCode code_of(const Status& status) { return status.code(); }
template <class T>
std::string message_of(const Result<T>& result) {
  return result.status().message();
}
template <class T>
StatusCode code_of(const Result<T>& result) {
  return result.status().code();
}

}  // namespace sextant::testing
