#pragma once

#include "eval/report.h"

namespace gsa::eval {

/// A report with every section, made-up numbers, and names that try to break a page: markup, the
/// end of a script, quotes, bars, long words.
Report sample_report();

}  // namespace gsa::eval
