#pragma once

#include <stdexcept>
#include <string>

namespace gsa {

/// Whose fault a failure is; the program maps it to an exit code and a server to an HTTP status.
enum class ErrorKind {
  input,     ///< the user gave something that cannot work: a flag, a file's content, a length
  resource,  ///< a file, device or allocation failed
  internal,  ///< a bug of this library
};

/// The one exception type of the library. The message is a single line: what, where, what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace gsa
