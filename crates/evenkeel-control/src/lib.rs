//! Controller, View, Plan, Action, Door, ports and the run loop.
