// Compiled before the rest: whether the reader's exercises compile. If they don't, everything else is built without them.
#include "exercises.h"
