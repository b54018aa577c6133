#pragma once

#include <string_view>

namespace gsa::eval {

// What a page of a report carries in itself; made of the files by the build (cmake/GsaEmbed.cmake).
extern const std::string_view chart_js;    ///< third_party/chart.js
extern const std::string_view report_css;  ///< src/eval/report.css
extern const std::string_view report_js;   ///< src/eval/report.js

}  // namespace gsa::eval
