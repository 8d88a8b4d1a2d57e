// Errors are values. No Sextant function throws, prints or aborts across this boundary.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace sextant {

enum class StatusCode {
  kOk = 0,
  kInvalidArgument,    // a value is wrong in itself; the message names field, value and what is allowed
  kUnsupported,        // a valid request that this backend, op or device does not serve
  kNotFound,           // an unknown name or a missing file
  kResourceExhausted,  // workspace too small, no free block, out of memory
  kUnavailable,        // the device or its driver is not there
  kInternal,           // a fault of ours or of a library below us
};

const char* to_string(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status ok() { return {}; }

  bool is_ok() const { return code_ == StatusCode::kOk; }
  explicit operator bool() const { return is_ok(); }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

Status invalid_argument(std::string message);
Status unsupported(std::string message);

// A value or the reason why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool is_ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return is_ok(); }
  Status status() const { return is_ok() ? Status::ok() : std::get<Status>(state_); }
  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }

 private:
  std::variant<T, Status> state_;
};

// Leaves the enclosing function with the status unless it is ok.
#define SEXTANT_RETURN_IF_ERROR(expression)               \
  do {                                                    \
    ::sextant::Status sextant_status_ = (expression);     \
    if (!sextant_status_.is_ok()) return sextant_status_; \
  } while (false)

}  // namespace sextant
