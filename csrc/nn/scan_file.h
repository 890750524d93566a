#pragma once
// The file of a scan that is at work: it grows by a line with each point, so that a scan that was
// stopped goes on where it was.

#include "pomona/export.h"
#include "pomona/scan.h"

#include <filesystem>
#include <string>
#include <vector>

namespace pomona {

class POMONA_API ScanFile {
 public:
  // Reads `path`, or begins it where there is none; an unfinished last line is dropped. `identity`
  // is JSON on one line. Throws InvalidArgument: no file of a scan, one of another scan, a damaged
  // line. Throws FileError: it cannot be read or written.
  ScanFile(std::filesystem::path path, ScanKind kind, const std::string& identity,
           const std::string& metric);

  // The point of this layer and setting; null when it was not measured yet.
  const ScanPoint* find(const std::string& layer, double setting) const;
  // One more point, flushed to the disk. Throws FileError, and then the file is as it was.
  void append(const ScanPoint& point);

 private:
  void read();
  void replace() const;

  std::filesystem::path path_;
  ScanKind kind_;
  std::string text_;  // of the whole file; at first of its two first lines
  std::vector<ScanPoint> points_;
};

}  // namespace pomona
