"""Kernels are told by their names, as NVIDIA's libraries, Inductor, Triton and PyTorch give them."""

import pytest

from tinyllama.bench.kernel_classes import CLASSES, PATTERNS, KernelTime, class_table, kernel_class, top_kernels

NAMES = {
    "product": [
        "nvjet_tst_192x192_64x4_2x1_v_bz_coopB_NNT",
        "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTT",
        "nvjet_qqtst_128x256_128x4_2x1_v_bz_coopA_TNT",  # fp8
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas",
        "sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x128_cga1x1x1_cublas",
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x256_32x3_nn_align8>(Params)",
        "ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn",
        "ampere_sgemm_128x64_nn",
        "void gemvx::kernel<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, false, true, true>",
        "void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false, false>(Params)",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, __nv_bfloat16, true>(Params)",
        "triton_tem_fused_mm_3",
        "triton_mm_12",
        "aten::mm",
        "aten::addmm",
        "aten::_scaled_mm",
    ],
    "attention": [
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_30_64x128x64_1x1x1_kernel0_0",
        "void cudnn::fusion::compute_dot_do_o_specialized<true, __nv_bfloat16, 128, 6, 64>(Params)",
        "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<64, 128, 128, 4, cutlass::bfloat16_t>>",
        "void pytorch_flash::flash_bwd_convert_dq_kernel<Flash_bwd_kernel_traits<64, 128, 128, 8, cutlass::half_t>>",
        "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloat16_t>::Params)",
        "triton_tem_fused_flex_attention_0",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ],
    "cross entropy": ["_rows", "_rows_0d1d2d", "aten::logsumexp", "aten::scatter_add_"],
    "fused elementwise": [
        "triton_poi_fused_mul_silu_0",
        "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_1",
        "triton_per_fused__to_copy_add_mul_sum_5",
        "triton_poi_fused__scaled_dot_product_cudnn_attention_backward_cat_4",  # names what lies before it
        "triton_poi_fused_mm_silu_backward_2",
        "## Call CompiledFxGraph fq3v2 ##",
    ],
    "elementwise": [
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul> >",
        "void at::native::unrolled_elementwise_kernel<at::native::CUDAFunctor_add<float>,"
        " at::native::memory::LoadWithCast<2>, at::native::memory::StoreWithCast<1> >",
        "aten::silu_backward",
        "aten::mul_",
    ],
    "optimizer": [
        "_update",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<TensorListMetadata<1>, LpNormFunctor<float> >",
        "void at::native::lpnorm_cleanup<float, (at::native::NormType)1, float, float>(float const*)",
        "void multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4>, FusedAdamMathFunctor<float, 4> >",
        "aten::_foreach_norm",
        "aten::_fused_adamw_",
    ],
    "copies and casts": [
        "Memcpy DtoD (Device -> Device)",
        "Memset (Device)",
        "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)>",
        "void at::native::elementwise_kernel<128, 4, bfloat16_copy_kernel_cuda>",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, std::array<char*, 1ul> >",
        "void at::native::(anonymous namespace)::CatArrayBatchedCopy<float, unsigned int, 1, 64, 64>",
        "aten::copy_",
    ],
    "embedding": [
        "void at::native::(anonymous namespace)::indexSelectLargeIndex<float, long, unsigned int, 2, 2, -2, true>",
        "void at::native::vectorized_gather_kernel<16, long>(char*, char*, long*, int, long, long, long)",
        "void at::native::(anonymous namespace)::embedding_backward_feature_kernel<float, float, long>",
        "void at_cuda_detail::cub::DeviceRadixSortOnesweepKernel<Policy, false, long, long, int, int>",
        "at::native::(anonymous namespace)::krn_partials_per_segment",
        "aten::embedding_dense_backward",
    ],
    "other": [
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::sum_functor<float> > >",
        "autograd::engine::evaluate_function: MmBackward0",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "wanted"), [(name, wanted) for wanted, names in NAMES.items() for name in names])
def test_names(name: str, wanted: str):
    assert kernel_class(name) == wanted


def test_every_class_has_a_pattern_and_an_example():
    assert {name for name, _ in PATTERNS} | {"other"} == set(CLASSES) == set(NAMES)


def test_class_table():
    kernels = [KernelTime("nvjet_tst_1", 3.0, 10), KernelTime("aten::mm", 1.0, 2), KernelTime("_rows", 0.5, 4)]
    rows = {row["class"]: row for row in class_table(kernels, idle_ms=0.5)}
    assert list(rows) == [*CLASSES, "idle"]
    assert rows["product"] == {"class": "product", "ms": 4.0, "share": 0.8, "launches": 12}
    assert rows["cross entropy"] == {"class": "cross entropy", "ms": 0.5, "share": 0.1, "launches": 4}
    assert rows["idle"] == {"class": "idle", "ms": 0.5, "share": 0.1, "launches": 0}
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)


def test_top_kernels():
    kernels = [KernelTime(f"triton_poi_fused_{number}_" + "x" * 100, float(number), 2) for number in range(20)]
    top = top_kernels(kernels)
    assert [row["ms"] for row in top] == list(range(19, 4, -1))
    assert all(len(row["name"]) == 90 and row["class"] == "fused elementwise" and row["launches"] == 2 for row in top)


def test_figures_are_rounded_and_shares_count_idle_time():
    kernels = [
        KernelTime("aten::mm", 1.23456789, 2.5),
        KernelTime("aten::mm", 1.0, 1.2),
        KernelTime("unknown", 0.1, 0.4),
    ]
    rows = {row["class"]: row for row in class_table(iter(kernels), idle_ms=0.66543211)}
    assert rows["product"] == {"class": "product", "ms": 2.2346, "share": 0.744856, "launches": 4}
    assert rows["other"] == {"class": "other", "ms": 0.1, "share": 0.033333, "launches": 0}
    assert rows["idle"] == {"class": "idle", "ms": 0.6654, "share": 0.221811, "launches": 0}
    assert top_kernels(kernels)[0] == {"name": "aten::mm", "class": "product", "ms": 1.2346, "launches": 2}
    assert [row["ms"] for row in top_kernels(kernels)] == [1.2346, 1.0, 0.1]
