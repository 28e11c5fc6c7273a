// A device for PyTorch that is not the CPU, though its memory is the host's and the CPU computes.
//
// Code that was only ever run on a CPU passes tensors of two devices to an operator, or draws on a
// GPU by the CPU's generator, and nobody notices. Here both are refused, as CUDA's kernels refuse
// them. Autocast converts what CUDA's converts. Not imitated: streams, page-locked memory, sums in
// another order.
//
// PyTorch's open registration: https://docs.pytorch.org/tutorials/advanced/privateuseone.html

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::Stream;
using Ints = c10::SymIntArrayRef;

constexpr auto kType = c10::DeviceType::PrivateUse1;
constexpr auto kKey = c10::DispatchKey::PrivateUse1;
constexpr size_t kAlignment = 64;

Device device() { return Device(kType, 0); }

struct HostAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* memory = bytes ? std::aligned_alloc(kAlignment, rounded) : nullptr;
    if (memory) std::memset(memory, 0x7f, bytes);  // whoever reads what was not written sees it
    return {memory, memory, &std::free, device()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
HostAllocator allocator;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  Device exchangeDevice(Device) const override { return device(); }
  Device getDevice() const override { return device(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, device()); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, device()); }
  Stream getNewStream(Device, int) const override { return Stream(Stream::DEFAULT, device()); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
};

struct Generator final : at::CPUGeneratorImpl {
  Generator() : at::CPUGeneratorImpl(0) {
    device_ = device();
    key_set_ = c10::DispatchKeySet(kKey);
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  Hooks() { at::RegisterPrivateUse1HooksInterface(this); }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  const at::Generator& getDefaultGenerator(DeviceIndex) const override {
    static const at::Generator generator = at::make_generator<Generator>();
    return generator;
  }
  at::Generator getNewGenerator(DeviceIndex) const override {
    return at::make_generator<Generator>();
  }
};
Hooks hooks;

// The same memory as a tensor of the CPU.
Tensor on_host(const Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  const auto options = tensor.options().device(at::kCPU).requires_grad(false);
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), options);
}

Tensor on_device(const Tensor& tensor) { return tensor.defined() ? tensor.to(device()) : tensor; }

Tensor empty(
    at::IntArrayRef sizes,
    std::optional<at::ScalarType> type,
    std::optional<at::Layout>,
    std::optional<Device>,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  const auto key = c10::DispatchKeySet(kKey);
  return at::detail::empty_generic(sizes, &allocator, key, c10::dtype_or_default(type), format);
}

Tensor empty_strided(
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<at::ScalarType> type,
    std::optional<at::Layout>,
    std::optional<Device>,
    std::optional<bool>) {
  const auto key = c10::DispatchKeySet(kKey);
  return at::detail::empty_strided_generic(
      sizes, strides, &allocator, key, c10::dtype_or_default(type));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_host(to).copy_(on_host(from));
  return to;
}

const Tensor& resize_to(
    const Tensor& tensor, at::IntArrayRef sizes, std::optional<at::MemoryFormat>) {
  const int64_t values = c10::multiply_integers(sizes) + tensor.storage_offset();
  const size_t bytes = values * tensor.element_size();
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  if (storage->nbytes() < bytes) {
    auto larger = allocator.allocate(bytes);
    std::memcpy(larger.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr(std::move(larger));
    storage->set_nbytes(bytes);
  }
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return tensor;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (from.sizes() != to.sizes()) resize_to(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

Tensor& set_storage(Tensor& tensor, at::Storage storage) {
  const int64_t values = storage.nbytes() / tensor.element_size(), next = 1;
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(
      at::IntArrayRef(values), at::IntArrayRef(next));
  return tensor;
}

at::Scalar item(const Tensor& tensor) { return on_host(tensor).item(); }

Tensor as_strided(
    const Tensor& tensor,
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(tensor, sizes, strides, offset);
}

void check_same(const Tensor& one, const Tensor& other) {
  TORCH_CHECK(
      !one.defined() || !other.defined() || one.device() == other.device(),
      "convolution got tensors of two devices: ", one.device(), " and ", other.device());
}

Tensor convolution(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, Ints stride,
    Ints padding, Ints dilation, bool transposed, Ints output_padding, c10::SymInt groups) {
  std::optional<Tensor> host_bias;
  check_same(input, weight);
  if (bias && bias->defined()) {
    check_same(input, *bias);
    host_bias = on_host(*bias);
  }
  return on_device(at::convolution_symint(
      on_host(input), on_host(weight), host_bias, stride, padding, dilation, transposed,
      output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& input, const Tensor& weight, Ints stride, Ints padding,
    Ints dilation, bool transposed, Ints output_padding, c10::SymInt groups,
    std::array<bool, 3> mask) {
  check_same(gradient, input);
  check_same(input, weight);
  const std::vector<c10::SymInt> bias{weight.sym_size(transposed ? 1 : 0)};
  const auto [by_input, by_weight, by_bias] = at::convolution_backward_symint(
      on_host(gradient), on_host(input), on_host(weight), Ints(bias), stride, padding, dilation,
      transposed, output_padding, groups, mask);
  return {on_device(by_input), on_device(by_weight), on_device(by_bias)};
}

// What CUDA takes of the CPU beside its own: single numbers, and rows to index by.
bool takes_indices_of_the_host(const std::string& name) {
  return name == "aten::index" || name == "aten::index_put" || name == "aten::index_put_" ||
      name == "aten::_index_put_impl_";
}

struct Devices {
  bool own = false, host = false;

  void see(const Tensor& tensor) {
    if (!tensor.defined()) return;
    own |= !tensor.is_cpu();
    host |= tensor.is_cpu() && tensor.dim() > 0;
  }
};

// Every operator that is not below: its devices are checked, and the CPU computes it.
void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Devices devices;
  for (const auto& argument : torch::jit::last(stack, op.schema().arguments().size())) {
    if (argument.isTensor()) {
      devices.see(argument.toTensor());
    } else if (argument.isTensorList()) {
      for (const Tensor& tensor : argument.toTensorVector()) devices.see(tensor);
    } else if (argument.isOptionalTensorList()) {
      for (const auto& tensor : argument.toOptionalTensorVector()) {
        if (tensor) devices.see(*tensor);
      }
    } else if (argument.isGenerator() && argument.toGenerator().defined()) {
      TORCH_CHECK(
          !argument.toGenerator().device().is_cpu(), op.operator_name(),
          " got a generator of the CPU");
    }
  }
  TORCH_CHECK(
      !devices.own || !devices.host || takes_indices_of_the_host(op.operator_name().name),
      op.operator_name(), " got tensors of two devices");
  at::native::cpu_fallback(op, stack);
}

}  // namespace

REGISTER_ALLOCATOR(kType, &allocator);
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", item);
  m.impl("resize_", resize_to);
  m.impl("set_.source_Storage", set_storage);
  m.impl("as_strided", as_strided);
  m.impl("view", at::native::view);
  m.impl("unfold", at::native::unfold);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

// The lists that CUDA's autocast is made of.
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FP32_BY_DTYPE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
namespace at::autocast {
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FP32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FP32_BY_DTYPE)
  AT_FORALL_PROMOTE(PROMOTE)
}
}  // namespace at::autocast
