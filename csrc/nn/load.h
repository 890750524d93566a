#pragma once
// What all loads into a model begin with.

#include "pomona/io.h"

namespace pomona {

// Throws InvalidArgument, in the name of `what`, that lists every difference of names, shapes and
// dtypes between a model and a file, and every tensor that cannot be written.
void check_fit(const char* what, const NamedTensors& targets, const FileReader& reader);

}  // namespace pomona
