#include "nn/scan_file.h"

#include "pomona/error.h"

#include "base/mapped_file.h"
#include "base/new_file.h"
#include "base/text.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

namespace pomona {

ScanFile::ScanFile(std::filesystem::path path, ScanKind kind, const std::string& identity,
                   const std::string& metric)
    : path_(std::move(path)),
      kind_(kind),
      text_(text("# pomona.sensitivity ", identity, "\n", scan_columns(kind, metric))) {
  std::error_code error;  // a path that cannot be looked at cannot be written either
  if (std::filesystem::exists(path_, error) && !std::filesystem::is_empty(path_, error)) read();
  replace();
}

const ScanPoint* ScanFile::find(const std::string& layer, double setting) const {
  const auto found = std::ranges::find_if(
      points_, [&](const auto& p) { return p.layer == layer && p.setting == setting; });
  return found == points_.end() ? nullptr : &*found;
}

void ScanFile::append(const ScanPoint& point) {
  const size_t before = text_.size();
  text_ += scan_line(kind_, point);
  try {
    replace();
  } catch (...) {
    text_.resize(before);
    throw;
  }
  points_.push_back(point);
}

void ScanFile::read() {
  const MappedFile file(path_);
  const auto bytes = file.bytes();
  std::string_view content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  content = content.substr(0, content.rfind('\n') + 1);
  const auto refuse = [this](const auto&... why) {
    throw InvalidArgument(text("sensitivity: expected `resume` to be a file of this scan, got ",
                               path_, " (", why..., "). Name another file or delete it."));
  };
  if (!content.starts_with("# pomona.sensitivity ")) refuse("its first line is another");
  if (!content.starts_with(text_)) refuse("a scan of another model, rules, settings or metric");
  std::string_view rest = content.substr(text_.size());
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(line.size() + 1);
    auto point = parse_scan_line(line);
    if (!point) refuse("the line \"", line, "\" is damaged");
    points_.push_back(std::move(*point));
  }
  text_ = content;
}

void ScanFile::replace() const {
  NewFile file(path_);
  file.append(std::as_bytes(std::span(text_)));
  file.commit();
}

}  // namespace pomona
