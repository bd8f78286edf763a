// Atomic operations on global and shared memory, in the order in which threads come.
#pragma once
#include <type_traits>

namespace simulator {

template <class T, class F> T atomic(T* place, F change) {
  T old, changed;
  __atomic_load(place, &old, __ATOMIC_RELAXED);
  do {
    changed = change(old);
  } while (!__atomic_compare_exchange(place, &old, &changed, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace simulator

template <class T> T atomicAdd(T* place, std::type_identity_t<T> value) {
  return simulator::atomic(place, [=](T old) { return T(old + value); });
}
template <class T> T atomicMax(T* place, std::type_identity_t<T> value) {
  return simulator::atomic(place, [=](T old) { return old < value ? value : old; });
}
template <class T> T atomicMin(T* place, std::type_identity_t<T> value) {
  return simulator::atomic(place, [=](T old) { return value < old ? value : old; });
}
template <class T> T atomicExch(T* place, std::type_identity_t<T> value) {
  return simulator::atomic(place, [=](T) { return value; });
}
template <class T> T atomicCAS(T* place, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return simulator::atomic(place, [=](T old) { return old == expected ? value : old; });
}
