#pragma once

#include <memory>
#include <type_traits>

namespace gsa::kernels {

/// A reference to a callable `void(int task)`; it must outlive the call it is passed to. Unlike
/// std::function it never allocates.
class TaskRef {
 public:
  template <typename F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, TaskRef>)
  TaskRef(F&& function)  // NOLINT(google-explicit-constructor): made to be passed a lambda
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(function)))),
        call_([](void* object, int task) {
          (*static_cast<std::remove_reference_t<F>*>(object))(task);
        }) {}

  void operator()(int task) const { call_(object_, task); }

 private:
  void* object_;
  void (*call_)(void*, int);
};

/// The caller's threads. Kernels own none: they split their work into about `num_threads` tasks.
class Parallel {
 public:
  virtual ~Parallel() = default;
  virtual int num_threads() const = 0;
  /// Calls task(0) to task(num_tasks - 1), each once, in any order and on any thread; returns when
  /// all have returned. Must not allocate. Tasks of this library do not throw.
  virtual void run(int num_tasks, TaskRef task) = 0;
};

/// Everything on the calling thread.
class Serial final : public Parallel {
 public:
  int num_threads() const override { return 1; }
  void run(int num_tasks, TaskRef task) override {
    for (int i = 0; i < num_tasks; ++i) task(i);
  }
};

}  // namespace gsa::kernels
