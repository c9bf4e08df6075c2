# Times the cubins of tiles of the weight gradient's kernel on a GPU, by PyTorch's events: what wrote gradient_tiles.csv and gradient_prefetch.csv.
import json,sys,ctypes,struct,time,torch,csv
from cuda.bindings import driver as D
def ck(r):
    if r[0]!=D.CUresult.CUDA_SUCCESS: raise RuntimeError(str(r[0]))
    return r[1] if len(r)==2 else r[1:]
torch.zeros(1,device='cuda'); N=8192; items=json.load(open('.lab/grad/items.json')); start=time.time()
w=csv.writer(open(sys.argv[1],'w')); cols='name pattern dtype rank estimate J lanes sub fragments warps rows stages chunks grid threads smem blocks regs spill'.split(); w.writerow(cols+['us','error'])
cell=None
for i in items:
    key=(tuple(i['pattern']),i['dtype'])
    if key!=cell:
        cell=key; a,b,c,d=i['pattern']; dt=torch.bfloat16 if i['dtype']=='bf16' else torch.float32
        x=torch.randn(N,a,c,d,device='cuda').to(dt); v=torch.randn(N,a,b,d,device='cuda').to(dt)
        ref=torch.bmm(v.double().permute(1,3,2,0).reshape(a*d,b,N) if False else v.float().permute(1,3,2,0).reshape(a*d,b,N), x.float().permute(1,3,0,2).reshape(a*d,N,c)).reshape(a,d,b,c).permute(0,2,3,1).contiguous()
        y=torch.empty(200*a*b*c*d,device='cuda')
    try:
        mod=ck(D.cuModuleLoadData(open(f".lab/grad/cubins/{i['name']}.cubin",'rb').read())); f=ck(D.cuModuleGetFunction(mod,b'kronsparse'))
        ck(D.cuFuncSetAttribute(f,D.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,i['smem']))
        args=ctypes.create_string_buffer(struct.pack('QQQQqQ',x.data_ptr(),0,0,y.data_ptr(),N,v.data_ptr())); p=(ctypes.c_void_p*1)(ctypes.addressof(args))
        st=D.CUstream(torch.cuda.current_stream().cuda_stream)
        go=lambda: ck(D.cuLaunchKernel(f,i['grid'],1,1,i['threads'],1,1,i['smem'],st,ctypes.addressof(p),0))
        y.fill_(float('nan')); go(); torch.cuda.synchronize()
        g=y[:i['chunks']*ref.numel()].view(i['chunks'],*ref.shape).sum(0); err=((g-ref).norm()/ref.norm()).item()
        ts=[]
        for _ in range(6):
            s,e=torch.cuda.Event(enable_timing=True),torch.cuda.Event(enable_timing=True); s.record(); go(); go(); go(); e.record(); e.synchronize(); ts.append(s.elapsed_time(e)*1e3/3)
        us=sorted(ts)[2]
    except Exception as ex: us,err=str(ex)[:60],''
    w.writerow([i[k] for k in cols]+[us,err])
print('took',time.time()-start)
