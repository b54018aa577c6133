#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <mutex>
#include <set>

// Without OpenMP in our own files at::parallel_for would quietly run on one thread.
TEST(Threads, ParallelForRunsOnSeveralThreads) {
  at::set_num_threads(2);
  std::mutex mutex;
  std::set<int> thread_ids;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    thread_ids.insert(omp_get_thread_num());
  });
  EXPECT_EQ(thread_ids.size(), 2u);
}
