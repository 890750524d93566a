#pragma once
// Numbers and strings as Python writes them, so that files are the same whichever language wrote
// them.

#include "pomona/export.h"

#include <string>

namespace pomona {

// repr(float): the fewest digits that read back as the same number ("0.1", "1e-05", "3.0", "inf").
POMONA_API std::string python_float(double value);
// json.dumps(str), in ASCII. REQUIRES: `value` is UTF-8.
POMONA_API std::string json_string(const std::string& value);

}  // namespace pomona
