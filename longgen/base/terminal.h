// How wide the terminal is that somebody reads at.
#pragma once

namespace longgen {

// Columns of the terminal that a file descriptor is; 0 where it is none or does not say.
int terminal_columns(int descriptor);

}  // namespace longgen
