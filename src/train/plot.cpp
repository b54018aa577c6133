#include "train/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "core/display.h"
#include "core/error.h"
#include "core/file.h"

namespace gsa::train {
namespace {

constexpr double width = 900, height = 520;
constexpr double left = 70, right = 230, top = 30, bottom = 60;  // margins; the legend is right
constexpr double legend_line = 20;
// Okabe and Ito's colours, which the colour-blind can tell apart.
constexpr std::array<std::string_view, 8> colours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                     "#e69f00", "#56b4e9", "#000000", "#a0a000"};

/// One drawn line with its place in the legend.
struct Line {
  std::string name;
  Curve points;
  std::string_view colour;
  enum class Look { faint, solid, dotted } look = Look::solid;
};

/// Mean of the points around each, over about a fiftieth of the curve.
Curve smoothed(const Curve& curve) {
  const auto reach = std::ssize(curve) / 100;
  Curve out;
  for (std::ptrdiff_t i = 0; i < std::ssize(curve); ++i) {
    const auto begin = std::max<std::ptrdiff_t>(0, i - reach);
    const auto end = std::min(std::ssize(curve), i + reach + 1);
    double sum = 0;
    for (auto j = begin; j < end; ++j) sum += curve[j].second;
    out.emplace_back(curve[i].first, sum / static_cast<double>(end - begin));
  }
  return out;
}

Curve finite(const Curve& curve) {
  Curve out;
  std::ranges::copy_if(curve, std::back_inserter(out),
                       [](const auto& point) { return std::isfinite(point.second); });
  return out;
}

std::vector<Line> lines_of(const std::vector<RunCurves>& runs) {
  std::vector<Line> lines;
  std::size_t num_colours = 0;
  const auto next_colour = [&] { return colours[num_colours++ % colours.size()]; };
  for (const RunCurves& run : runs) {
    const std::string prefix = run.name.empty() ? "" : run.name + ": ";
    if (const Curve training = finite(run.training); !training.empty()) {
      const auto colour = next_colour();
      lines.push_back({"", training, colour, Line::Look::faint});
      lines.push_back({prefix + "training", smoothed(training), colour, Line::Look::solid});
    }
    for (const auto& [sizes, curve] : run.evaluations) {
      const std::string label = sizes == "full" ? "full attention" : "chunks " + sizes;
      if (Curve points = finite(curve); !points.empty())
        lines.push_back({prefix + label, std::move(points), next_colour(), Line::Look::dotted});
    }
  }
  return lines;
}

/// Distance of ticks that gives about `count` of them: 1, 2 or 5 times a power of ten.
double tick_distance(double span, double count) {
  const double rough = span / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

struct Axis {
  double min = 0, max = 1, tick = 1;

  /// Begins and ends at a tick.
  static Axis over(double min, double max, double count) {
    if (max - min < 1e-9) max = min + 1e-3 * std::max(1.0, std::abs(min));
    const double tick = tick_distance(max - min, count);
    return {std::floor(min / tick) * tick, std::ceil(max / tick) * tick, tick};
  }
  double share(double value) const { return (value - min) / (max - min); }
  int num_ticks() const { return static_cast<int>(std::lround((max - min) / tick)) + 1; }
  double value(int idx) const { return min + idx * tick; }
  std::string label(int idx) const {
    const int digits = std::max(0, -static_cast<int>(std::floor(std::log10(tick) + 1e-9)));
    return fmt::format("{:.{}f}", value(idx), digits);
  }
};

/// Steps of all lines, and losses without the steep beginning of a training: the noisy tenth that
/// is highest is cut off where it would flatten the rest.
std::pair<Axis, Axis> axes_of(const std::vector<Line>& lines) {
  double last_step = 1;
  std::vector<double> losses;
  double lowest = INFINITY, highest = -INFINITY;
  for (const Line& line : lines) {
    for (const auto& [step, loss] : line.points) {
      last_step = std::max(last_step, static_cast<double>(step));
      if (line.look == Line::Look::faint) continue;
      losses.push_back(loss);
      lowest = std::min(lowest, loss);
      highest = std::max(highest, loss);
    }
  }
  if (losses.empty()) return {Axis::over(0, last_step, 8), Axis::over(0, 1, 6)};
  std::ranges::sort(losses);
  const double most = losses[(losses.size() - 1) * 9 / 10];
  constexpr double stretch = 3;  // of the axis, that outliers may cost
  highest = std::min(highest, lowest + stretch * std::max(most - lowest, 1e-3));
  return {Axis::over(0, last_step, 8), Axis::over(lowest, highest, 6)};
}

class Picture {
 public:
  Picture(Axis x, Axis y, double picture_height) : x_(x), y_(y), height_(picture_height) {
    svg_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
        "height=\"{1}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#333333\">\n"
        "<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n"
        "<clipPath id=\"plot\"><rect x=\"{2}\" y=\"{3}\" width=\"{4}\" height=\"{5}\"/>"
        "</clipPath>\n",
        width, height_, left, top, width - left - right, height - top - bottom);
  }

  void draw_axes() {
    for (int i = 0; i < x_.num_ticks(); ++i) {
      const double x = place_x(x_.value(i));
      draw_grid(x, top, x, height - bottom);
      draw_text(x, height - bottom + 20, "middle", x_.label(i));
    }
    for (int i = 0; i < y_.num_ticks(); ++i) {
      const double y = place_y(y_.value(i));
      draw_grid(left, y, width - right, y);
      draw_text(left - 8, y + 4, "end", y_.label(i));
    }
    draw_text((left + width - right) / 2, height - 16, "middle", "step");
    svg_ += fmt::format(
        "<text transform=\"translate(18 {:.1f}) rotate(-90)\" text-anchor=\"middle\">"
        "loss (nats per token)</text>\n",
        (top + height - bottom) / 2);
    svg_ += fmt::format(
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#888888\"/>\n",
        left, top, width - left - right, height - top - bottom);
  }

  void draw(const Line& line) {
    std::string points;
    for (const auto& [step, loss] : line.points)
      points += fmt::format("{:.1f},{:.1f} ", place_x(static_cast<double>(step)), place_y(loss));
    if (!points.empty()) points.pop_back();
    const bool is_faint = line.look == Line::Look::faint;
    svg_ += fmt::format(
        "<polyline clip-path=\"url(#plot)\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" "
        "stroke-opacity=\"{}\" points=\"{}\"/>\n",
        line.colour, is_faint ? 1 : 2, is_faint ? 0.3 : 1.0, points);
    if (line.look != Line::Look::dotted) return;
    for (const auto& [step, loss] : line.points) {
      svg_ += fmt::format(
          "<circle clip-path=\"url(#plot)\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" "
          "fill=\"{}\"/>\n",
          place_x(static_cast<double>(step)), place_y(loss), line.colour);
    }
  }

  void draw_legend(const std::vector<Line>& lines) {
    double y = top + 10;
    for (const Line& line : lines) {
      if (line.name.empty()) continue;
      const double x = width - right + 16;
      svg_ += fmt::format(
          "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{}\" "
          "stroke-width=\"2\"/>\n",
          x, y, x + 22, y, line.colour);
      if (line.look == Line::Look::dotted)
        svg_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"3\" fill=\"{}\"/>\n", x + 11, y,
                            line.colour);
      draw_text(x + 30, y + 4, "start",
                fmt::format("{} ({:.3f})", line.name, line.points.back().second));
      y += legend_line;
    }
  }

  std::string finish() { return svg_ + "</svg>\n"; }

 private:
  double place_x(double step) const { return left + x_.share(step) * (width - left - right); }
  double place_y(double loss) const {
    return height - bottom - y_.share(loss) * (height - top - bottom);
  }
  void draw_grid(double x1, double y1, double x2, double y2) {
    svg_ += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" "
        "stroke=\"#e4e4e4\"/>\n",
        x1, y1, x2, y2);
  }
  void draw_text(double x, double y, std::string_view anchor, std::string_view text) {
    svg_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y,
                        anchor, core::escape_markup(text));
  }

  Axis x_, y_;
  double height_;  // of the picture; the axes keep theirs when the legend is longer
  std::string svg_;
};

Curve to_curve(const std::map<std::int64_t, double>& losses) {
  return {losses.begin(), losses.end()};
}

}  // namespace

RunCurves read_curves(const std::filesystem::path& log, std::string name) {
  std::istringstream stream(core::read_file(log));
  std::map<std::int64_t, double> training;
  std::vector<std::pair<std::string, std::map<std::int64_t, double>>> evaluations;
  const auto of_sizes = [&](const std::string& sizes) -> std::map<std::int64_t, double>& {
    const auto found =
        std::ranges::find(evaluations, sizes, [](const auto& entry) { return entry.first; });
    if (found != evaluations.end()) return found->second;
    return evaluations.emplace_back(sizes, std::map<std::int64_t, double>()).second;
  };
  for (std::string text; std::getline(stream, text);) {
    const auto record = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || !record.contains("step") || !record["step"].is_number_integer())
      continue;  // cut off in the middle
    const auto step = record["step"].get<std::int64_t>();
    if (const auto loss = record.find("loss"); loss != record.end() && loss->is_number())
      training[step] = loss->get<double>();
    if (const auto eval = record.find("eval"); eval != record.end() && eval->is_object()) {
      for (const auto& [sizes, loss] : eval->items())
        if (loss.is_number()) of_sizes(sizes)[step] = loss.get<double>();
    }
  }
  if (training.empty() && evaluations.empty())
    core::input_error("plot: {} tells no loss; give the log.jsonl of a run", log.string());
  RunCurves curves{std::move(name), to_curve(training), {}};
  for (const auto& [sizes, losses] : evaluations)
    curves.evaluations.emplace_back(sizes, to_curve(losses));
  return curves;
}

std::string plot_svg(const std::vector<RunCurves>& runs) {
  const std::vector<Line> lines = lines_of(runs);
  const auto [x, y] = axes_of(lines);
  const auto num_named =
      std::ranges::count_if(lines, [](const Line& line) { return !line.name.empty(); });
  Picture picture(x, y, std::max(height, top + 20 + legend_line * static_cast<double>(num_named)));
  picture.draw_axes();
  for (const Line& line : lines) picture.draw(line);
  picture.draw_legend(lines);
  return picture.finish();
}

}  // namespace gsa::train
