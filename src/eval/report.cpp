#include "eval/report.h"

#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "core/file.h"

namespace gsa::eval {

ReportFormat report_format(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  std::ranges::transform(ending, ending.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (ending == ".html" || ending == ".htm") return ReportFormat::html;
  if (ending == ".md" || ending == ".markdown") return ReportFormat::markdown;
  if (ending == ".csv") return ReportFormat::csv;
  core::input_error("report: {} names no format: let it end in .html, .md or .csv", path.string());
}

void write_report(const Report& report, const std::filesystem::path& path) {
  switch (report_format(path)) {
    case ReportFormat::html:
      return core::write_file_atomic(path, to_html(report));
    case ReportFormat::markdown:
      return core::write_file_atomic(path, to_markdown(report));
    case ReportFormat::csv:
      return core::write_file_atomic(path, to_csv(report));
  }
}

}  // namespace gsa::eval
